"""The passes that come with fxopt, one a file, in folders by theme; registered by entry points like anybody's.

clean/   clean-up that any graph may want: no-ops, constants, duplicates
fuse/    folding of one op into another, and into forms that runtimes have kernels for
lowrank/ low-rank and tensor decomposition of weights, and layers split into chains
prune/   channels, heads, layers and single weights that go
blocks/  regions exchanged for cheaper ones
train/   training on the captured graph
quant/   calibration and quantize/dequantize insertion
"""
