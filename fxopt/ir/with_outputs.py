"""A program with intermediate values as further outputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy


def with_outputs(program: Program, names: Sequence[str], *, own: bool = True) -> Program:
    """A copy with flat outputs, followed by the values of the nodes ``names``; without its ``own``, these alone."""
    twin = shared_copy(program)
    nodes = {node.name: node for node in twin.graph.nodes}
    outputs = [*(twin.outputs() if own else ()), *(nodes[name] for name in names)]
    twin.graph.output_node().args = (tuple(outputs),)
    if (info := getattr(twin.graph._codegen, "pytree_info", None)) is not None:
        flat = pytree.tree_structure(tuple(outputs))
        twin.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(info.orig_args, info.in_spec, flat)))
    twin.module.recompile()
    return twin
