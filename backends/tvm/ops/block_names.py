"""Names that ops give to blocks and buffers and that schedules find them by."""

from __future__ import annotations

SUMS = "blocked_sums"
"""Name of the block that multiplies and adds."""


FLUSHED = "flushed"
"""Name of the copy of a tile that is read element by element, where the last vector overhangs."""


TILE = "fxopt.tile"
"""Annotation of the block that multiplies: the numbers of its tile."""


INTEGERS = "fxopt.integers"
"""Annotation of the block of integer sums: lines, rows, vectors, unroll and rows of a register, and the instruction."""
