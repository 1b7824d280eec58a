"""Residual branches: where they are, how important they are, how to zero them."""
