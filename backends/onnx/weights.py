"""The int8 weights of an ONNX model: read back as they are stored, or stored as uint8 around a zero point of 128."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fxopt.backends.onnx.file import save
from fxopt.int8_pairs import IntegerWeight

_CONTRACTIONS = ("Conv", "Gemm", "MatMul", "MatMulInteger")
_SHIFT = 128


def integer_weights(path: Path, origins: dict[str, str]) -> list[IntegerWeight]:
    """The stored int8 weights of convolutions and matrix products; ``origins`` tells where a node comes from."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.op_type not in _CONTRACTIONS:
            continue
        turned, source = _stored_source(node.input[1], made)
        if source not in stored or stored[source].data_type != onnx.TensorProto.INT8:
            continue
        codes = numpy_helper.to_array(stored[source])
        attributes = {a.name: a.i for a in node.attribute}
        by_columns = node.op_type.startswith("MatMul") or (node.op_type == "Gemm" and not attributes.get("transB"))
        if by_columns != turned and codes.ndim == 2:
            codes = codes.T
        if codes.ndim > 1:
            found.append(
                IntegerWeight(f"{origins.get(node.name, node.name)}, {source}", codes, attributes.get("group", 1))
            )
    return found


def _stored_source(name: str, made: dict[str, Any]) -> tuple[bool, str]:
    """Whether a weight is transposed on its way from where it is stored, and the name of what it is dequantized from."""
    turned = False
    while (node := made.get(name)) is not None and node.op_type in ("Transpose", "DequantizeLinear"):
        turned ^= node.op_type == "Transpose"
        name = node.input[0]
    return turned, name


def store_unsigned(model: Any) -> None:
    """Store int8 weights with zero point 0 as uint8 with zero point 128: the same numbers, by kernels for two unsigned bytes."""
    import onnx

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    contracted = {name for node in model.graph.node if node.op_type in _CONTRACTIONS for name in node.input[1:2]}
    contracted |= {n.input[0] for n in model.graph.node if n.op_type == "Transpose" and n.output[0] in contracted}
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.output[0] in contracted:
            place, zero = 0, 2
        elif node.op_type == "MatMulInteger":
            place, zero = 1, 3
        else:
            continue
        codes = stored.get(node.input[place])
        if codes is None or codes.data_type != onnx.TensorProto.INT8:
            continue
        node.input.extend([""] * (zero + 1 - len(node.input)))
        zeros = stored.get(node.input[zero])
        shifted = _shifted(codes, model, stored)
        shape = () if zeros is None else tuple(zeros.dims)
        node.input[place] = shifted.name
        node.input[zero] = _zero_points(f"{shifted.name}_zero_point", shape, model, stored)
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)


def unsigned_copy(path: Path, out: Path) -> None:
    """Write the model ``path`` as ``out`` with its weights as :func:`store_unsigned` stores them."""
    import onnx

    model = onnx.load(path)
    store_unsigned(model)
    save(model, out)


def _shifted(codes: Any, model: Any, stored: dict[str, Any]) -> Any:
    """The initializer with 128 added to ``codes``, made where it is not there yet."""
    from onnx import numpy_helper

    name = f"{codes.name}_unsigned"
    if name not in stored:
        values = (numpy_helper.to_array(codes).astype(np.int16) + _SHIFT).astype(np.uint8)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        stored[name] = model.graph.initializer[-1]
    return stored[name]


def _zero_points(name: str, shape: tuple[int, ...], model: Any, stored: dict[str, Any]) -> str:
    from onnx import numpy_helper

    if name not in stored:
        model.graph.initializer.append(numpy_helper.from_array(np.full(shape, _SHIFT, np.uint8), name))
        stored[name] = model.graph.initializer[-1]
    return name
