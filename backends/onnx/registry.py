"""What the exporter has an ONNX form of, made once in a process: making it takes longer than exporting a small model."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

from fxopt.backends.onnx.grouped_products import grouped_product, grouped_products


def registry_of(opset: int) -> Any:
    """torch's registry of ops with an ONNX form in a version of the ONNX operators, and ours of experts' products."""
    return _registry(opset, _defined_ops())


def decompositions_of(opset: int) -> dict[Any, Any]:
    """How the exporter decomposes the other ops."""
    return _decompositions(opset, _defined_ops())


def _defined_ops() -> tuple[int, int]:
    """Changes where a library of ops is loaded, as one of the user's: the registry has only ops that are defined."""
    # an export loads it, and then all would be made again
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    return len(torch.library._defs), len(torch.ops.loaded_libraries)


@functools.lru_cache(4)
def _registry(opset: int, defined: tuple[int, int]) -> Any:
    from torch.onnx._internal.exporter import _constants
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    registry = ONNXRegistry.from_torchlib(opset_version=max(opset, _constants.TORCHLIB_OPSET))
    for target in grouped_products():
        registry.register_op(target, grouped_product)
    return registry


@functools.lru_cache(4)
def _decompositions(opset: int, defined: tuple[int, int]) -> dict[Any, Any]:
    from torch.onnx._internal.exporter._decomp import (
        create_onnx_friendly_decomposition_table,
        get_onnx_implemented_overloads,
    )

    return create_onnx_friendly_decomposition_table(set(get_onnx_implemented_overloads(_registry(opset, defined))))
