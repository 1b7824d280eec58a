"""Dynamic quantization: weights in int8, scales of activations computed at run time."""
