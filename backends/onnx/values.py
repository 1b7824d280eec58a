"""The quantized values of an ONNX model: named as the program names them, and given beside the model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxopt.backends.onnx.file import save

if TYPE_CHECKING:
    from fxopt.ir.program import Program


def name_values(model: Any, program: Program) -> None:
    """Give the codes of each value that ``program`` quantizes the name of the node that makes them.

    They have it already, but where the whole graph was traced again, which numbers nodes anew and keeps their order.
    """
    from fxopt.driver.intermediate_values import quantized_values

    stored = {tensor.name for tensor in model.graph.initializer}
    made = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[1] in stored]
    nodes = quantized_values(program)
    if len(made) != len(nodes):  # a pass of the exporter's merged some: they keep the exporter's names
        return
    names = {old.output[0]: node.name for old, node in zip(made, nodes, strict=True)}
    taken = {name for node in model.graph.node for name in node.output} - set(names)
    taken |= stored | {value.name for value in (*model.graph.input, *model.graph.output)}
    names = {old: new for old, new in names.items() if new not in taken and old not in taken}
    for node in model.graph.node:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = names.get(name, name)


def expose(path: Path, names: Sequence[str], out: Path) -> list[str]:
    """Write the model ``path`` to ``out`` with the values called ``names`` behind its outputs; return those that it has."""
    import onnx

    model = onnx.load(path)
    codes = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    present = [name for name in names if name in codes and name not in outputs]
    for name in present:
        zero = codes[name].input[2] if len(codes[name].input) > 2 else ""
        kind = kinds.get(zero, onnx.TensorProto.UINT8)
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    save(model, out)
    return present
