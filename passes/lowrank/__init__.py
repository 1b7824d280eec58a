"""Low-rank and tensor decomposition: weights by approximations of low rank, and layers split into chains of small ones."""
