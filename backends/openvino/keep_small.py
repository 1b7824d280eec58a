"""Stored codes, and small constants that large ones are made of, out of reach of what computes constants beforehand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_CODES = ("i8", "u8", "i4", "u4")
_LAYER = 1024
"""Bytes that a layer takes in the description of a model, about: what computing it beforehand may cost."""


@contextlib.contextmanager
def kept_small(model: Any) -> Iterator[None]:
    """Let the values of an OpenVINO model stand as inputs that would take more bytes computed than as they are written."""
    from openvino import opset13 as ops

    held = []
    for value in _growing(model):
        stand_in = ops.parameter(value.get_shape(), value.get_element_type())
        for reader in value.get_target_inputs():
            reader.replace_source_output(stand_in.output(0))
        model.add_parameters([stand_in])
        held.append((stand_in, value))
    try:
        yield
    finally:
        for stand_in, value in held:
            for reader in stand_in.output(0).get_target_inputs():
                reader.replace_source_output(value)
            model.remove_parameter(stand_in)


def _growing(model: Any) -> list[Any]:
    """The values that would: stored codes, but where OpenVINO leaves them so, and what is larger than its operands.

    An operand with other readers stays in the file, and counts for nothing.
    """
    found = []
    constant: set[Any] = set()
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Constant":
            if node.get_element_type().get_type_name() not in _CODES:
                constant.add(node.get_name())
            elif not _is_known(node.output(0)):
                found.append(node.output(0))
            continue
        sources = node.input_values()
        known = (kind == "ShapeOf" and sources[0].get_partial_shape().is_static) or (
            bool(sources) and all(source.get_node().get_name() in constant for source in sources)
        )
        if not known or any(out.get_partial_shape().is_dynamic for out in node.outputs()):
            continue
        freed = sum(_bytes(source) for source in sources if len(source.get_target_inputs()) == 1)
        if kind != "ShapeOf" and sum(map(_bytes, node.outputs())) > freed + _LAYER:
            found += node.outputs()
        else:
            constant.add(node.get_name())
    return found


def _is_known(codes: Any) -> bool:
    """Whether OpenVINO sees codes that are dequantized: a cast to float and a zero point or a scale; or zero points."""
    casts = [reader.get_node() for reader in codes.get_target_inputs()]
    if not all(cast.get_type_name() == "Convert" and cast.get_element_type().is_real() for cast in casts):
        return _is_subtracted(codes)
    readers = {r.get_node().get_type_name() for cast in casts for r in cast.output(0).get_target_inputs()}
    return readers <= {"Subtract", "Multiply"} or _is_subtracted(codes)


def _is_subtracted(value: Any) -> bool:
    """Whether every way on, through casts and changes of shape, ends at what it is subtracted from."""
    return all(
        _is_subtracted(reader.get_node().output(0))
        if reader.get_node().get_type_name() in ("Convert", "Reshape", "Unsqueeze")
        else reader.get_node().get_type_name() == "Subtract" and reader.get_index() == 1
        for reader in value.get_target_inputs()
    )


def _bytes(value: Any) -> int:
    return int(value.get_tensor().size)
