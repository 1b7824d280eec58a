"""Names and annotations of blocks, which ops set and schedules find them by."""

from __future__ import annotations

SUMS = "blocked_sums"
"""The block that multiplies and accumulates."""
PADDED, PACKED = "padded_input", "packed_columns"
"""Blocks that convert an operand to the layout that it is read in."""
FLUSHED = "flushed"
"""The copy of a tile that is read element by element, where the last vector overhangs."""
TILE = "fxopt.tile"
"""Annotation of the block that accumulates: its tile as a list."""
CHANNELS = "fxopt.channels"
"""Annotation of a convolution's block that accumulates: ``blocked`` where the input is in vectors of channels, ``plain`` where
it has too few, ``depthwise`` where each channel is summed by itself."""
INT8_KERNEL = "fxopt.integers"
"""Annotation of the block that accumulates in int32: the kind of instruction, or that it is depthwise."""
