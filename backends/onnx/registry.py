"""What the exporter has an ONNX form of, made once in a process: making it takes longer than exporting a small model."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def registry_of(opset: int) -> Any:
    """torch's registry of ops with an ONNX form in a version of the ONNX operators; nothing adds to it."""
    from torch.onnx._internal.exporter import _constants
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(opset_version=max(opset, _constants.TORCHLIB_OPSET))


@functools.cache
def decompositions_of(opset: int) -> dict[Any, Any]:
    """How the exporter decomposes the other ops."""
    from torch.onnx._internal.exporter._decomp import (
        create_onnx_friendly_decomposition_table,
        get_onnx_implemented_overloads,
    )

    return create_onnx_friendly_decomposition_table(set(get_onnx_implemented_overloads(registry_of(opset))))
