"""Which tiles a kernel may have for the registers of the target, and which is taken. May import ``machine``."""
