"""Dynamic quantization: weights in int8, scales of activations taken as the model runs."""
