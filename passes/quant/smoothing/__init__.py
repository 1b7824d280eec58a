"""SmoothQuant as an exact rewrite: which channels may carry a factor, how large it is, and the weights that take it."""
