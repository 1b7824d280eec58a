"""Random numbers drawn by key: two versions of a program draw the same, whatever else is in their graphs.

A stream of random numbers depends on the order of the draws, so a pass that removes or moves one would change all later
ones. Here each draw has a seed of its own, from the name of its node before the pass.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import Trait, has, lookup
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program


def is_draw(node: fx.Node) -> bool:
    """Whether a node draws random numbers: by its row in the op table, its arguments, or torch's tag of its op."""
    if node.op != "call_function":
        return False
    row = lookup(node)
    if row is not None and row.family == "random":
        return True
    if row is not None and has(node, Trait.DROPOUT):
        return bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("train"))
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    chances = [given[name] for name in ("dropout_p", "dropout", "p") if name in given]
    return any(chances) if any(a.name in ("dropout_p", "dropout") for a in schema.arguments) else True


def draw_keys(program: Program, before: Program | None = None) -> dict[str, str]:
    """Key of each draw of ``program`` by node name: the name it has in ``before``.

    A draw with a new node takes the key of the first remaining draw by the same op.
    """
    keys = {node.name: node.name for node in program.graph.nodes if is_draw(node)}
    if before is None:
        return keys
    left = {node.name: op_name(node) for node in before.graph.nodes if is_draw(node) and node.name not in keys}
    for node in program.graph.nodes:
        if node.name in keys and node.name not in {n.name for n in before.graph.nodes}:
            match = next((name for name, op in left.items() if op == op_name(node)), None)
            if match is not None:
                keys[node.name] = match
                del left[match]
    return keys


def draw(node: fx.Node, args: Any, kwargs: Any, key: str) -> Any:
    """Call the op of a node that draws, with the random state seeded by ``key``; in float64 the numbers are the same.

    They are drawn in float32 and widened, as torch draws other numbers for the same seed in float64.
    """
    torch.default_generator.manual_seed(zlib.crc32(key.encode()))
    target: Any = node.target
    if has(node, Trait.DROPOUT):
        x, *rest = args
        return x * target(torch.ones_like(x, dtype=torch.float32), *rest, **kwargs).to(x.dtype)
    if lookup(node) is not None and lookup(node).family != "random":  # type: ignore[union-attr]
        return target(*args, **kwargs)
    wide = torch.get_default_dtype() == torch.float64
    args, kwargs = pytree.tree_map(_narrow, (args, kwargs))
    drawn = target(*args, **({"dtype": torch.float32} if wide and _takes_dtype(node, kwargs) else {}) | kwargs)
    return pytree.tree_map(_widen, drawn) if wide else drawn


def _takes_dtype(node: fx.Node, kwargs: Any) -> bool:
    """Whether the op draws numbers of the default dtype unless it is given one."""
    row = op_name(node)
    return (
        row.startswith(("aten.rand.", "aten.randn.", "aten.rand", "aten.randn"))
        and "dtype" not in kwargs
        and ("_like" not in row and "randint" not in row and "randperm" not in row)
    )


def _narrow(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
        return value.float()
    return torch.float32 if value is torch.float64 else value


def _widen(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


class KeyedDraws(fx.Interpreter):
    """Runs a program with every draw seeded by its key."""

    def __init__(self, program: Program, keys: dict[str, str]) -> None:
        super().__init__(program.module)
        self._keys = keys

    def run_node(self, n: fx.Node) -> Any:
        """As torch does, except for draws."""
        if n.name not in self._keys:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return draw(n, args, kwargs, self._keys[n.name])
