"""The int8 weights of an ONNX model: read back as they are stored, or stored as uint8 around a zero point of 128."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxopt.backends.onnx.file import drop_unused, save
from fxopt.target.int8_pairs import IntegerWeight

_CONTRACTIONS = ("Conv", "Gemm", "MatMul", "MatMulInteger")
_ZERO_POINTS = {"DequantizeLinear": 2, "MatMulInteger": 3}
"""By the node that reads codes, which of its inputs is their zero point."""
_SHIFT = 128


@dataclass(frozen=True, eq=False)
class _Stored:
    """The codes of ``layer``'s weight: the initializer, which ``reader`` has as its input number ``place``.

    ``turned``: whether they are transposed on the way to the layer.
    """

    layer: Any
    codes: Any
    reader: Any
    place: int
    turned: bool


def _stored_weights(graph: Any) -> Iterator[_Stored]:
    """The stored int8 weights of convolutions and matrix products, a layer each."""
    import onnx

    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    for layer in graph.node:
        if layer.op_type not in _CONTRACTIONS:
            continue
        reader, place, turned = layer, 1, False
        while (source := made.get(reader.input[place])) and source.op_type in ("Transpose", "DequantizeLinear"):
            reader, place, turned = source, 0, turned ^ (source.op_type == "Transpose")
        codes = stored.get(reader.input[place])
        if codes is not None and codes.data_type == onnx.TensorProto.INT8:
            yield _Stored(layer, codes, reader, place, turned)


def integer_weights(path: Path, origins: dict[str, str]) -> list[IntegerWeight]:
    """The stored int8 weights of convolutions and matrix products; ``origins`` tells where a node comes from."""
    import onnx
    from onnx import numpy_helper

    found = []
    for weight in _stored_weights(onnx.load(path).graph):
        layer, codes = weight.layer, numpy_helper.to_array(weight.codes)
        attributes = {a.name: a.i for a in layer.attribute}
        by_columns = layer.op_type.startswith("MatMul") or (layer.op_type == "Gemm" and not attributes.get("transB"))
        if by_columns != weight.turned and codes.ndim == 2:
            codes = codes.T
        if codes.ndim > 1:
            name = f"{origins.get(layer.name, layer.name)}, {weight.codes.name}"
            found.append(IntegerWeight(name, codes, attributes.get("group", 1)))
    return found


def store_unsigned(model: Any) -> None:
    """Store int8 weights with zero point 0 as uint8 with zero point 128: the same numbers, by kernels for two unsigned bytes.

    The int8 ones stay where something else reads them, and unused otherwise.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for weight in list(_stored_weights(model.graph)):
        reader, zero = weight.reader, _ZERO_POINTS.get(weight.reader.op_type)
        if zero is None:
            continue
        reader.input.extend([""] * (zero + 1 - len(reader.input)))
        zeros = stored.get(reader.input[zero])
        name = f"{weight.codes.name}_unsigned"
        values = numpy_helper.to_array(weight.codes).astype(np.int16) + _SHIFT
        _store(model, stored, name, values.astype(np.uint8))
        _store(
            model, stored, f"{name}_zero_point", np.full(() if zeros is None else tuple(zeros.dims), _SHIFT, np.uint8)
        )
        reader.input[weight.place], reader.input[zero] = name, f"{name}_zero_point"


def unsigned_copy(path: Path, out: Path) -> None:
    """Write the model ``path`` as ``out`` with its weights as :func:`store_unsigned` stores them."""
    import onnx

    model = onnx.load(path)
    store_unsigned(model)
    drop_unused(model)
    save(model, out)


def _store(model: Any, stored: dict[str, Any], name: str, values: NDArray[Any]) -> None:
    """Add a tensor to a model, unless layers before have stored it: they may share a weight."""
    from onnx import numpy_helper

    if name not in stored:
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        stored[name] = model.graph.initializer[-1]
