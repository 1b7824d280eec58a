"""Residual branches: where they are, what they weigh, how to zero them."""
