"""Channel coupling: which indices of which dims live and die together, for every value of a graph."""
