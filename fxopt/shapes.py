"""Shapes: re-derive every node's fake tensor after an edit, and read sizes as concrete numbers."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from fxopt.errors import PassError
from fxopt.ops import Shape
from fxopt.program import Program


class _Derive(FakeTensorProp):
    """Runs the graph on fake tensors, from the symbolic shapes of the placeholders; remembers where it stands."""

    at: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return self._mode.from_tensor(value, static_shapes=True) if isinstance(value, torch.Tensor) else value


def fake_mode(program: Program) -> FakeTensorMode:
    """The fake-tensor mode of the placeholders, or a new one for a program that has none yet."""
    for node in program.inputs():
        value = node.meta.get("val")
        if value is not None and hasattr(value, "fake_mode"):
            mode: FakeTensorMode = value.fake_mode
            return mode
    return FakeTensorMode()


def derive_shapes(program: Program) -> None:
    """Set ``meta["val"]`` of every node anew. Raises PassError at the node whose inputs do not fit."""
    mode = fake_mode(program)
    values = [node.meta["val"] for node in program.inputs()]
    run = _Derive(program.module, mode)
    quiet = logging.getLogger("torch.fx.interpreter")
    before = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        run.propagate_dont_convert_inputs(*values)
    except Exception as error:
        if run.at is None:
            raise
        operands = "\n".join(f"    {program.describe(n)}" for n in run.at.all_input_nodes)
        reason = str(error).split("\nWhile executing")[0].splitlines()[0] if str(error) else type(error).__name__
        raise PassError(f"shapes do not fit: {reason}\n{operands}\n    {program.describe(run.at)}") from error
    finally:
        quiet.setLevel(before)


def concrete_shapes(program: Program) -> Shape:
    """Return a function that gives a node's shape with the example inputs' sizes put in for the dynamic dims."""
    known: dict[Any, int] = {}
    for node, leaf in zip(program.inputs(), program.example_leaves(), strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            for size, actual in zip(value.shape, leaf.shape, strict=True):
                if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                    known[size.node.expr] = int(actual)

    def size_of(size: int | torch.SymInt) -> int:
        if isinstance(size, torch.SymInt):
            value = size.node.expr.xreplace(known)
            return int(value) if value.is_number else int(size.node.hint or 1)
        return size

    def shape(node: fx.Node) -> tuple[int, ...]:
        value = node.meta.get("val")
        return tuple(size_of(s) for s in value.shape) if isinstance(value, torch.Tensor) else ()

    return shape
