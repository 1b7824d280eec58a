"""An example of a package with a pass and a backend for fxopt."""
