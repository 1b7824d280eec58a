"""Exact folding of one op into another."""
