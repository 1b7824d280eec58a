"""Invariants that every pass must keep: calls of ops alone, the same interface, the capture's facts untouched."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.errors import VerifyError
from fxopt.ir.program import Program


def check_calls(program: Program, known: set[Any]) -> None:
    """Check that new nodes are calls of ops, or of functions on sizes."""
    for node in program.graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        if node.op == "call_function" and (node.target in known or _is_op(node.target)):
            continue
        raise program.fail(
            node,
            f"a graph holds calls of ops alone, not {_called(node)}",
            way_out=f"Pass developer: write {_op_for(node)}",
        )


def _is_op(target: Any) -> bool:
    if isinstance(target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
        return True
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    return module in ("_operator", "operator", "math") or (module == "torch" and name.startswith("sym_"))


def _called(node: fx.Node) -> str:
    if node.op != "call_function":
        return f"{node.op} of {node.target!r}"
    if isinstance(node.target, torch._ops.OpOverloadPacket):
        return f"torch.ops.{node.target}, which has several overloads"
    return f"the Python function {getattr(node.target, '__name__', node.target)}"


def _op_for(node: fx.Node) -> str:
    """What the author of a pass should have written."""
    packet: Any = node.target
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        name = packet if node.op == "call_method" else getattr(packet, "__name__", "")
        packet = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
    overloads = [getattr(packet, name) for name in packet.overloads()] if packet is not None else []
    fit = (o for o in overloads if o._schema.arguments and str(o._schema.arguments[0].type) == "Tensor")
    return next((f"torch.ops.{o}" for o in fit), "calls of torch.ops.aten, and add weights by program.add_tensor")


def check_kept(before: Program, program: Program) -> None:
    """Check that a pass did not change what only the capture may set."""
    kept = ("args", "kwargs", "ranges", "notes", "history")
    changed = [f"program.{name}" for name in kept if not _same_tree(getattr(before, name), getattr(program, name))]
    typed = {node.target for node in before.inputs() if "val" in node.meta}
    lost = [str(node.target) for node in program.inputs() if node.target in typed and "val" not in node.meta]
    changed += [f"node.meta of input {name}" for name in lost]
    if changed:
        raise VerifyError(
            f"the pass changed {', '.join(changed)}\n  a pass may change the graph and its weights; example "
            "inputs, ranges and notes belong to the capture",
            way_out="Pass developer: report with program.skip(node, reason) or program.chose(what, value, why)",
        )


def _same_tree(a: Any, b: Any) -> bool:
    (old, spec), (new, other) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return bool(spec == other) and all(map(_same_leaf, old, new))


def _same_leaf(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return same_tensor(a, b)
    return a is b or (type(a) is type(b) and bool(a == b))


def lost_types(before: Program, program: Program) -> bool:
    """Whether a pass that changed nothing else removed the fake tensors of nodes."""
    pairs = zip(before.graph.nodes, program.graph.nodes, strict=False)
    return any("val" in old.meta and "val" not in new.meta for old, new in pairs)


def check_arity(program: Program) -> None:
    """Check the number of inputs and outputs against the structure that callers know."""
    for what, spec, found in (
        ("input", program.in_spec, program.inputs()),
        ("output", program.out_spec, program.outputs()),
    ):
        if spec is not None and len(found) != spec.num_leaves:
            raise VerifyError(
                f"there were {spec.num_leaves} {what}(s), there are {len(found)}\n    {program.signature()}",
                way_out="a pass may not change the inputs or outputs of the program",
            )


def same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether type, shape and every element are the same; NaN is the same as NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.device.type == "cpu":
        return True
    if torch.equal(a, b):
        return True
    numbers = not (a.is_floating_point() or a.is_complex()) or not bool(a.isnan().any())
    return not numbers and bool(((a == b) | ((a != a) & (b != b))).all())
