"""Loops of each kernel: TIR schedules for float and int8, tiled for registers. May import ``ops``, ``tir``, ``tiling``."""
