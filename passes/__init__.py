"""The passes that come with fxopt, one a file, in folders by theme; registered by entry points like anybody's.

clean/   clean-up that any graph may want: no-ops, constants, duplicates
fuse/    folding of one op into another, and into forms that runtimes have kernels for
quant/   calibration and quantize/dequantize insertion
"""
