"""The interface of a program before and after a pass: types of inputs and outputs, and memory that outputs share."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.errors import VerifyError
from fxopt.ir.op_table import DIRECT, TRANSPOSED, Trait, family, has
from fxopt.ir.printer import op_name, type_text
from fxopt.ir.program import Program
from fxopt.numerics.execute import Run


def interface_of(program: Program) -> tuple[list[str], list[str], Any, Any]:
    """Types of the inputs and outputs as text, and the structure of both."""
    dims = program.dims()
    inputs = [f"{n.target}: {type_text(n.meta.get('val'), dims)}" for n in program.inputs()]
    values = [o.meta.get("val") if isinstance(o, fx.Node) else o for o in program.outputs()]
    return inputs, [_stable(v, dims) for v in values], program.in_spec, program.out_spec


def _stable(value: Any, dims: dict[str, str]) -> str:
    """Dtype and sizes; a derived symbolic size is only 'dynamic', as it may be spelled in several ways."""
    if not isinstance(value, torch.Tensor):
        return type_text(value, dims)
    sizes = [str(s) if isinstance(s, int) else dims.get(str(s), "dynamic") for s in value.shape]
    return f"{value.dtype}[{', '.join(sizes)}]".replace("torch.", "")


def compare_interface(before: Any, after: Any, program: Program, where: str) -> None:
    """Compare the results of :func:`interface_of` before and after. Raises VerifyError."""
    problems = []
    for what, old, new in (("input", before[0], after[0]), ("output", before[1], after[1])):
        if len(old) != len(new):
            problems.append(f"there were {len(old)} {what}(s), there are {len(new)}")
        for i, (a, b) in enumerate(zip(old, new, strict=False)):
            if a != b:
                shown = output_line(program, i) if what == "output" else None
                line = f"\n    {shown}" if shown else ""
                problems.append(f"{what} {i}: was {a}, is {b}{line}")
    if before[2:] != after[2:]:
        problems.append("the structure of the inputs or outputs changed")
    if problems:
        text = "\n  ".join(problems)
        raise VerifyError(text, step=where, way_out="a pass may not change the inputs or outputs of the program")


def may_share(program: Program) -> bool:
    """Whether an output may share memory with an input, a weight or another output; not if each is made by itself."""
    outputs = [out for out in program.outputs() if isinstance(out, fx.Node)]
    return len(set(outputs)) < len(outputs) or not all(map(_is_fresh, outputs))


_ALLOCATES = (*DIRECT, *TRANSPOSED, "aten.linear", "aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm")


def _is_fresh(node: fx.Node) -> bool:
    """Whether a call gives memory of its own whatever its operands are."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if any(result.alias_info for result in node.target._schema.returns):
        return False
    makes = family(node) in ("binary", "softmax") or (family(node) == "unary" and has(node, Trait.KEEPS_FORM))
    return makes or op_name(node) in _ALLOCATES


def compare_aliases(before: list[Run], after: list[Run], program: Program, where: str) -> None:
    """Check that no output newly shares memory. Raises VerifyError."""
    new = sorted({a for b, c in zip(before, after, strict=True) for a in c.aliases - b.aliases})
    if new:
        raise VerifyError(
            f"{'; '.join(new)}, and did not before",
            step=where,
            way_out="a caller that writes into the result would change it; keep a copy (aten.clone) at the output",
        )


def output_line(program: Program, output: int) -> str | None:
    """An output's node as text; None where it is no node."""
    node = program.outputs()[output]
    return program.describe(node) if isinstance(node, fx.Node) else None
