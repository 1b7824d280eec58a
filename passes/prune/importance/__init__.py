"""How important a channel is: the criteria, and the data they need."""
