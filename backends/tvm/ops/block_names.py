"""Names and annotations that ops give to blocks, and that schedules find them by."""

from __future__ import annotations

SUMS = "blocked_sums"
"""The block that multiplies and accumulates."""
PADDED, PACKED = "padded_input", "packed_columns"
"""Blocks that bring an operand into the layout that it is read in."""
FLUSHED = "flushed"
"""The copy of a tile that is read element by element, where the last vector overhangs."""
TILE = "fxopt.tile"
"""Annotation of the block that accumulates: its tile as a list."""
CHANNELS = "fxopt.channels"
"""Annotation of the block that accumulates, of a convolution: ``blocked`` where the input is in vectors of channels, ``plain``
where it is not, as it has few, ``depthwise`` where each channel is summed by itself."""
INT8_KERNEL = "fxopt.integers"
"""Annotation of the block that accumulates in int32: the kind of instruction, or that it is depthwise."""
