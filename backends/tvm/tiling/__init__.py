"""Which tiles a kernel may have for the registers of the target, and which one is chosen. May import ``machine``."""
