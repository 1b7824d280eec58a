"""Exact clean-up of any graph."""
