"""The OpenVINO backend: the ONNX export as OpenVINO's own format, run by its CPU kernels.

backend.py   the backend and its options
convert.py   program to a reproducible OpenVINO model
shorten.py   the model in fewer layers that say the same
keep_small.py  what is not computed beforehand, as it would take more bytes
kernels.py   what the runtime's optimizer made of it
values.py    stored int8 weights, and quantized values as outputs
runtime.py   loading and running, without torch and onnx
precision_check.py  which precisions lose nothing that quantization had left
"""

from fxopt.backends.openvino.backend import Openvino

__all__ = ["Openvino"]
