"""Quantized programs in integers: values of one byte, sums of 32 bits, and no float in memory between two layers.

values.py       what is known of a value: a sum of integers with factors, and what that is in codes
rewrite.py      goes through the program and keeps what it can in codes: forms.py, the forms of a value; layers.py, sums.py
                and moves.py, the ops
expressions.py  questions about expressions
geometry.py     sizes of convolutions and products; tiling.py, their tiles; packing.py, their weights
contraction.py  their sums as tensor expressions; operands.py, what these read; pools.py, pools and means
epilogue.py     from sums to codes, or to float
instructions.py which instruction of the processor multiplies bytes; dots.py, those on vectors
schedule.py     loops for all instructions
amx.py          those on tiles: tile_registers.py, what is in which; amx_tiles.py, how large they may be; overlap.py, one
                tile rounded while the next is multiplied
"""
