"""Pruning: criteria, sparsity of single weights, removal of channels."""
