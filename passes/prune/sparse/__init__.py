"""Unstructured and N:M sparsity: which weights, and masks that training keeps."""
