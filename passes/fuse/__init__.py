"""Exact folding of one op into another, or into the form that runtimes have kernels for."""
