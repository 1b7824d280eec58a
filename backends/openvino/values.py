"""The integers of an OpenVINO model: its stored weights, and its quantized values given beside the model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxopt.backends.openvino.runtime import new_core
from fxopt.target.int8_pairs import IntegerWeight

_DEQUANTIZING = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose")
_INTEGERS = ("i8", "u8", "i4", "u4")
_KINDS = ("Convolution", "GroupConvolution", "MatMul")


def integer_weights(path: Path, origins: dict[str, str]) -> list[IntegerWeight]:
    """The stored int8 weights that integer kernels may multiply by; ``origins`` tells where a node comes from.

    They are of convolutions and matrix products whose input comes, near or far, from a FakeQuantize. Where none is before a
    layer it computes in float, with a weight that is made float on loading.
    """
    found: list[IntegerWeight] = []
    quantized: set[str] = set()
    for node in new_core().read_model(path).get_ordered_ops():
        kind = node.get_type_name()
        sources = {node.input_value(i).get_node().get_name() for i in range(node.get_input_size())}
        if kind == "FakeQuantize" or not sources.isdisjoint(quantized):
            quantized.add(node.get_name())
        if kind not in _KINDS or node.input_value(0).get_node().get_name() not in quantized:
            continue
        stored = stored_operand(node)
        if stored is None or stored.get_element_type().get_type_name() != "i8":
            continue
        codes, groups = stored.get_data(), 1
        if kind == "GroupConvolution":  # [groups, out / groups, in / groups, *kernel], or the exporter's form of it
            groups = node.input_value(1).get_shape()[0]
            codes = codes.reshape(-1, *node.input_value(1).get_shape()[2:])
        elif kind == "MatMul" and not node.get_attributes()["transpose_b"]:
            codes = codes.T
        if codes.ndim > 1:
            name = node.get_friendly_name().removesuffix("/WithoutBiases")
            found.append(IntegerWeight(f"{origins.get(name, name)}, {stored.get_friendly_name()}", codes, groups))
    return found


def stored_operand(node: Any) -> Any | None:
    """The constant that the second operand is dequantized from; None where that is computed."""
    source = node.input_value(1).get_node()
    while source.get_type_name() in _DEQUANTIZING:
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


def stored_as(node: Any) -> str | None:
    """The dtype of the integers that the second operand is made of by dequantization; None if it is not."""
    source = stored_operand(node)
    if source is None:
        return None
    kind = str(source.get_element_type().get_type_name())
    return kind if kind in _INTEGERS else None


def expose(path: Path, names: Sequence[str], out: Path) -> list[str]:
    """Write the model ``path`` to ``out`` with what the codes called ``names`` stand for behind its outputs, as float32.

    Not the codes, which a ``FakeQuantize`` does not give: the numbers have their names. Returns the names that it has.
    """
    import openvino

    model = new_core().read_model(path)
    real = {
        name: output for node in model.get_ordered_ops() for output in node.outputs() for name in output.get_names()
    }
    present = [name for name in names if name in real]
    for name in present:
        model.add_outputs(real[name])
    openvino.save_model(model, out, compress_to_fp16=False)
    return present
