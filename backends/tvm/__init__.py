"""The TVM backend: the program compiled as a whole, with kernels whose tiles are chosen for the target's vectors.

backend.py      the backend and its options
refusal.py      ops that TVM's importer has no form of
importing.py    program to Relax; conversions.py, the ops it lacks; places.py, where variables come from
layout.py       channels in vectors, through the whole graph; folding.py, ops on constants
values.py       the forms of a value; kernels.py, what multiplies; channelwise.py, what keeps channels apart
forms.py        from the usual form to vectors and back; sizes.py, what is asked of sizes
convolution.py  convolutions in tiles
product.py      matrix products in tiles
tasks.py        what tiles there are for a kernel, and which is taken
legalize.py     element-wise functions and rows without calls of the C library
schedule.py     the loops of each kernel
fixed.py        a second entry, for the sizes of the example inputs
parameters.py   weights in a file of their own
processor.py    the target's vectors and registers
tuning/         other tiles by measurement
integers/       quantized programs in integers
registers.py    the last steps to LLVM, with the sums of a tile in registers; threads.py, what is worth several;
                stealing.py, how they share it
compiling.py    all of that in order, and the library
runtime.py      loading and running, without torch; standalone.py, without Python
"""

from fxopt.backends.tvm.backend import Tvm

__all__ = ["Tvm"]
