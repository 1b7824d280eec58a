"""A program as a model of ``onnx_ir``, by torch's translation of single ops."""

from __future__ import annotations

from typing import Any

from fxopt.backends.onnx.exported import in_onnx_ops, lifted
from fxopt.backends.onnx.registry import decompositions_of, registry_of
from fxopt.frontend.origins import origins_of
from fxopt.frontend.pt2 import export_program
from fxopt.ir.program import Program


def translated(program: Program, opset: int) -> tuple[Any, dict[str, str]]:
    """Return torch's ``ONNXProgram``, and which node of the program each node is that it was translated from, by name.

    Values have the names of the nodes that give them, but where the whole graph had to be traced again.
    """
    from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]
    from torch.onnx._internal.exporter import _core as exporter  # torch.onnx.export makes its registry each time
    from torch.onnx._internal.exporter import _fx_passes as fx_passes

    registry = registry_of(opset)
    found = in_onnx_ops(program, registry, decompositions_of(opset))
    if found is None:
        made = exporter.export(export_program(program), (), registry=registry, opset_version=opset, verbose=False)
        return made, {} if made.exported_program is None else origins_of(made.exported_program, program)
    form, stems = found
    exported = lifted(form)
    fx_passes.insert_type_promotion_nodes(exported.graph_module)
    made = exporter._exported_program_to_onnx_program(exported, registry=registry)
    made.model = onnxscript_apis.convert_version(made.model, opset)
    made.optimize()
    return made, {node.name: stems.get(node.name, node.name) for node in exported.graph.nodes}
