"""Refinement of quantized weights and biases beyond rounding: the float program runs beside its quantized form."""
