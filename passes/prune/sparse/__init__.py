"""Unstructured and N:M sparsity: which weights, and masks that last."""
