"""Weight-only quantization: integers with a scale for each block of a weight; activations stay float."""
