"""Which layers hurt, and which of them to leave in float: trials of partly quantized programs."""
