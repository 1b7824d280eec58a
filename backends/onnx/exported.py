"""A program as the exporter takes it: an ExportedProgram of ops that have an ONNX form, made without running the model.

``torch.export`` traces the module again, and ``run_decompositions`` the export, each in the time of a capture, for a graph
that is one of ATen calls already. So weights become inputs here, and only calls that have no ONNX form are traced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymIntArgument,
    TensorArgument,
)
from torch.fx.experimental import _config as symbolic_config

from fxopt.backends.onnx.shaped_calls import STEM
from fxopt.ir.decompose import can_decompose, decompose
from fxopt.ir.op_table import family
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.shared_copy import shared_copy


def in_onnx_ops(
    program: Program, registry: Any, decompositions: dict[Any, Any]
) -> tuple[Program, dict[str, str]] | None:
    """Return a copy in which each call has an ONNX form, and by the name of each new node that of the node it stems from.

    Other nodes keep their names, but for one that has that of a weight, which is a value of the model too.
    None where that takes a trace of the whole graph: regions of ``torch.cond``, writes, ops on lists of tensors.
    """
    twin = shared_copy(program)
    for check in [node for node in twin.graph.nodes if family(node) == "check"]:
        twin.graph.erase_node(check)
    calls = [node for node in twin.graph.nodes if node.op == "call_function" and not _has_form(node.target, registry)]
    if calls or any("val" not in node.meta for node in twin.graph.nodes if node.op != "output"):
        derive_shapes(twin)  # in sizes of its own: a trace may assume more of them
    if any(not can_decompose(node) for node in calls) or len(twin.tensors()) < len(_attributes(twin)):
        return None
    stems: dict[str, str] = {}
    with symbolic_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        for node in calls:
            stem = node.meta.get(STEM, node.name)
            if (made := decompose(twin, node, decompositions)) is None:
                return None
            stems |= {new.name: stem for new in made}
    twin.graph.eliminate_dead_code()
    weights = twin.tensors()
    for node in [n for n in twin.graph.nodes if n.op == "call_function" and n.name in weights]:  # a value as they are
        name = node.name
        node._rename(f"{name}_value")
        stems[node.name] = stems.get(name, name)
    return twin, stems


def _has_form(target: Any, registry: Any) -> bool:
    """Whether the exporter translates an op as it is; by torch's rule for what else to decompose, a composite that may alias."""
    if not registry.is_registered(target):
        return False
    if not isinstance(target, torch._ops.OpOverload):
        return True
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        target.name(), torch._C.DispatchKey.CompositeImplicitAutograd
    )
    aliases = any(argument.alias_info is not None for argument in target._schema.arguments)
    return not (composite and (aliases or torch.Tag.maybe_aliasing_or_mutating in target.tags))


def _attributes(program: Program) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}


def lifted(program: Program) -> ExportedProgram:
    """The program as an ExportedProgram, whose weights are inputs; its graph is used up."""
    graph, weights, users = program.graph, program.tensors(), program.inputs()
    taken = {node.name for node in users}
    order = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    order += [name for name, _ in program.module.named_buffers(remove_duplicate=False)]
    first = next(iter(graph.nodes))
    specs, placed, state = [], {}, {}
    for name in [name for name in order if name in weights]:
        with graph.inserting_before(first):
            placed[name] = graph.placeholder(f"weight_{name.replace('.', '_')}")
        stored = f"{name}_weight" if name in taken else name
        state[stored] = weights[name]
        learned = isinstance(weights[name], torch.nn.Parameter)
        kind = InputKind.PARAMETER if learned else InputKind.BUFFER
        specs.append(InputSpec(kind, TensorArgument(placed[name].name), stored, None if learned else True))
    for node in graph.find_nodes(op="get_attr"):
        value = placed[node.target]
        value.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(value)
        graph.erase_node(node)
    specs += [InputSpec(InputKind.USER_INPUT, _argument(node), None) for node in users]
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, _argument(out), None) for out in program.outputs()]
    graph.output_node().args = (tuple(program.outputs()),)
    signature = ExportGraphSignature(specs, outputs)
    return ExportedProgram(torch.nn.Module(), graph, signature, state, {}, [ModuleCallEntry("")])


def _argument(value: Any) -> Any:
    if not isinstance(value, fx.Node):
        return ConstantArgument("", value)
    known = value.meta.get("val")
    if isinstance(known, torch.Tensor):
        return TensorArgument(value.name)
    return SymIntArgument(value.name) if isinstance(known, torch.SymInt) else ConstantArgument(value.name, known)
