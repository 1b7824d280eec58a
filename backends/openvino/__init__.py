"""The OpenVINO backend: the ONNX export as OpenVINO's own format, run by its CPU kernels.

backend.py   the backend and its options
convert.py   program to a reproducible OpenVINO model
kernels.py   what the runtime's optimizer made of it
values.py    stored int8 weights, and quantized values as outputs
runtime.py   loading and running, without torch and onnx
precision_check.py  which precisions lose nothing that quantization had left
"""

from fxopt.backends.openvino.backend import Openvino

__all__ = ["Openvino"]
