"""An ONNX model without the names of its values: what is left is the same for two models that differ in names alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx


def unnamed(path: Path) -> str:
    """sha256 over the operators, attributes and weights of a model, how values flow, and its interface with its names.

    A value is known by what computes it, so the order of nodes that do not depend on each other does not matter either.
    """
    model = onnx.load(path)
    interface = [
        [v.SerializeToString(deterministic=True) for v in which] for which in (model.graph.input, model.graph.output)
    ]
    opsets = sorted((entry.domain, entry.version) for entry in model.opset_import)
    functions = [function.SerializeToString(deterministic=True) for function in model.functions]
    return _digest(interface, opsets, functions, _graph(model.graph, {}))


def _graph(graph: Any, outer: Mapping[str, str]) -> str:
    known = dict(outer) | {"": ""} | {value.name: f"input {i}" for i, value in enumerate(graph.input)}
    for tensor in graph.initializer:
        known[tensor.name] = _tensor(tensor)
    nodes = []
    for node in graph.node:
        attributes = sorted(_attribute(attribute, known) for attribute in node.attribute)
        nodes.append(_digest(node.domain, node.op_type, attributes, [known[name] for name in node.input]))
        known |= {name: f"{nodes[-1]} {i}" for i, name in enumerate(node.output) if name}
    return _digest([known[value.name] for value in graph.output], sorted(nodes))


def _attribute(attribute: Any, known: Mapping[str, str]) -> str:
    if attribute.type == onnx.AttributeProto.GRAPH:
        return _digest(attribute.name, _graph(attribute.g, known))
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _digest(attribute.name, _tensor(attribute.t))
    return _digest(attribute.SerializeToString(deterministic=True))


def _tensor(tensor: Any) -> str:
    content = hashlib.sha256(onnx.numpy_helper.to_array(tensor).tobytes()).hexdigest()
    return _digest(tensor.data_type, list(tensor.dims), content)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
