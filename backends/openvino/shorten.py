"""A model as the reader of ONNX gives it, in fewer layers that say the same."""

from __future__ import annotations

from typing import Any

from fxopt.backends.openvino.give_biases import give_biases
from fxopt.backends.openvino.keep_small import kept_small

_DEQUANTIZING = ("Convert", "Subtract", "Multiply")


def shorten(model: Any) -> None:
    """Write in place what OpenVINO's own converter would, and names which do not depend on the process.

    A Q/DQ pair of a value becomes one ``FakeQuantize``, a stored weight its codes with a cast and a scale; zero points of
    nothing and shapes computed from constants go. A description of a model in int8 is half as long then, and the kernels are
    the same, as the runtime does all this when it loads a model. Biases are stored as float32, in which OpenVINO adds them, and
    :func:`give_biases` adds some. What would take more bytes when it is computed beforehand is left to the runtime.
    """
    from openvino._offline_transformations import apply_moc_transformations

    _name_by_position(model, ".")  # nodes hand their names on to those that replace them
    _name_real_values(model)
    _fold_biases(model)
    with kept_small(model):
        apply_moc_transformations(model, False)
    give_biases(model)
    _name_by_position(model, "/")
    model.set_friendly_name("model")


def _name_by_position(model: Any, mark: str) -> None:
    """Rename what has no name of its own: OpenVINO numbers such nodes through the whole process."""
    for i, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{node.get_type_name()}{mark}{i}")


def _name_real_values(model: Any) -> None:
    """Hand the names of codes on to the numbers that they stand for: a ``FakeQuantize`` gives no codes."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convert" or node.get_element_type().get_type_name() not in ("i8", "u8"):
            continue
        codes = node.output(0)
        if (names := codes.get_names()) and (real := _dequantized(codes)) is not None:
            codes.set_names(set())
            real.add_names(names)


def _dequantized(codes: Any) -> Any | None:
    """The output that holds the numbers of ``codes``: behind a cast, the zero point where there is one, and the scale."""
    while codes.get_node().get_type_name() != "Multiply":
        readers = (value.get_node() for value in codes.get_target_inputs())
        reader = next((n for n in readers if n.get_type_name() in _DEQUANTIZING), None)
        if reader is None:
            return None
        codes = reader.output(0)
    return codes


def _fold_biases(model: Any) -> None:
    """Compute what is dequantized from stored int32."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() == "Multiply" and _from_int32(node):
            folded = ops.constant(_computed(node.output(0)).data)
            folded.set_friendly_name(node.get_friendly_name())
            node.output(0).replace(folded.output(0))


def _from_int32(node: Any) -> bool:
    while node.get_type_name() in _DEQUANTIZING:
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "i32"


def _computed(value: Any) -> Any:
    """The tensor of an output that depends on constants alone."""
    from openvino import Tensor

    node = value.get_node()
    if node.get_type_name() == "Constant":
        return Tensor(node.get_data())
    out = Tensor(value.get_element_type(), value.get_shape())
    node.evaluate([out], [_computed(operand) for operand in node.input_values()])
    return out
