"""Arguments and metadata of a node as JSON, each with its kind: ``["tuple", […]]``, ``["dtype", "float32"]``."""

from __future__ import annotations

import importlib
import math
import operator
from typing import Any

import torch
from torch import fx
from torch._prims_common import is_non_overlapping_and_dense_or_false

_ATOMS = (torch.dtype, torch.layout, torch.memory_format)
_NAMED = {"operator": operator, "_operator": operator, "math": math, "torch": torch}
"""Modules whose functions on sizes a graph may call."""


class Unwritable(Exception):
    """A value that cannot be written as data."""


def write_value(value: Any, tensors: dict[str, torch.Tensor], who: str = "") -> list[Any]:
    """A value as JSON; a tensor goes to ``tensors`` under a name, the same one twice under one name. Raises Unwritable."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return ["plain", value]
    if kind is float:
        return ["float", value.hex()]
    if isinstance(value, fx.Node):
        return ["node", value.name]
    if isinstance(value, torch.Tensor):
        return ["tensor", _name_of(value, tensors), list(value.stride())]
    if isinstance(value, _ATOMS):
        return [kind.__name__, str(value).removeprefix("torch.")]
    if kind is torch.device:
        return ["device", str(value)]
    if kind is slice:
        return ["slice", [write_value(v, tensors, who) for v in (value.start, value.stop, value.step)]]
    if isinstance(value, torch._ops.OpOverload):
        return ["op", str(value)]
    if isinstance(value, tuple) and kind.__name__ == "tuple":
        return ["tuple", [write_value(v, tensors, who) for v in value]]
    if isinstance(value, list):
        return ["list", [write_value(v, tensors, who) for v in value]]
    if isinstance(value, dict):
        return ["dict", [[write_value(k, tensors, who), write_value(v, tensors, who)] for k, v in value.items()]]
    module, name = getattr(value, "__module__", ""), getattr(value, "__name__", "")
    if callable(value) and getattr(_NAMED.get(module), name, None) is value:
        return ["function", module, name]
    raise Unwritable(f"{who} {kind.__name__}".strip())


def read_value(form: Any, nodes: dict[str, fx.Node], tensors: dict[str, torch.Tensor]) -> Any:
    """The value from JSON. Raises Unwritable for an op or function that does not exist."""
    kind, value, *more = form
    if kind in ("tuple", "list"):
        return (tuple if kind == "tuple" else list)(read_value(v, nodes, tensors) for v in value)
    if kind == "dict":
        return {read_value(k, nodes, tensors): read_value(v, nodes, tensors) for k, v in value}
    if kind == "slice":
        return slice(*(read_value(v, nodes, tensors) for v in value))
    if kind == "tensor":
        return _strided(tensors[value], more[0])
    if kind == "op":
        return _op(value)
    if kind == "function":
        return getattr(_NAMED[value], more[0])
    simple: dict[str, Any] = {"plain": lambda v: v, "float": float.fromhex, "node": nodes.get, "device": torch.device}
    return simple[kind](value) if kind in simple else getattr(torch, value)


def _name_of(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    known = next((name for name, other in tensors.items() if other is tensor), None)
    if known is not None:
        return known
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        raise Unwritable(f"a tensor {tensor.dtype} {tensor.layout} on {tensor.device}")
    if not is_non_overlapping_and_dense_or_false(tensor):
        raise Unwritable("a tensor with gaps or overlaps")
    tensors[f"t{len(tensors)}"] = tensor
    return f"t{len(tensors) - 1}"


def _strided(tensor: torch.Tensor, stride: list[int]) -> torch.Tensor:
    if list(tensor.stride()) == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)


def _op(name: str) -> Any:
    namespace, packet, overload = name.split(".")
    if namespace == "quantized_decomposed":
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops
    try:
        return getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except AttributeError as error:
        raise Unwritable(f"the op {name}") from error
