"""Quantization: observers, placement policy, insertion of quantize and dequantize ops."""
