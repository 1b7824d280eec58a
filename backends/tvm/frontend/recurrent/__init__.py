"""Recurrent layers: the products with the input, and a kernel that loops over the steps."""
