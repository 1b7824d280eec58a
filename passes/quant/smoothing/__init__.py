"""SmoothQuant as an exact rewrite: which channels may have a factor, how large it is, and the weights that absorb it."""
