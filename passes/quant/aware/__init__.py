"""Quantization-aware training: the quantized graph simulated, trained, and emitted."""
