"""The ONNX backend: export, check, and run in ONNX Runtime; its integer kernels are counted, not assumed.

backend.py   the backend and its options
refusal.py   ops that have no ONNX form
export.py    program to a checked, reproducible ONNX model, which file.py writes; exported.py gives torch's translation
             a graph of ops that it has, translate.py calls it
attention_kernels.py, rotary_kernels.py, norms.py  what the runtime has kernels of its own for; unfused.py, where not
values.py    quantized values by name, and as outputs
weights.py   int8 weights read back, or stored as uint8
block_weights.py  weights with a scale for each block; unpacked_weights.py, of convolutions in float
pools.py     pools as the integer kernels want them
kernels.py   what the runtime's optimizer made of it
runtime.py   loading and running, without torch; standalone.py, without Python
"""

from fxopt.backends.onnx.backend import Onnx

__all__ = ["Onnx"]
