"""What makes the integer codes better than rounding alone: it runs the float program beside its quantized form."""
