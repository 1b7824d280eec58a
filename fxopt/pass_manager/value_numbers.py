"""Value numbering over two programs: values that are equal by construction have the same number.

Two calls of one op on operands of the same numbers, with the same other arguments, compute the same (hash-consing; Alpern,
Wegman, Zadeck, "Detecting Equality of Variables in Programs", POPL 1988). Values proved equal are merged by
:meth:`ValueNumbers.merge`, and values computed from them are then equal by construction too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.pass_manager.frozen_call import frozen_call
from fxopt.pass_manager.invariants import same_tensor


class ValueNumbers:
    """Value numbers of ``before``, and of the visited values of ``after``, in order."""

    def __init__(self, before: Program, after: Program, draws: dict[str, str]) -> None:
        self._programs = {id(before.graph): before, id(after.graph): after}
        self._draws = draws
        self._keys: dict[Any, int] = {}
        self._weights: dict[Any, list[tuple[torch.Tensor, int]]] = {}
        self._made = 0
        self.of: dict[fx.Node, int] = {}
        self.old: dict[int, fx.Node] = {}
        """By number, the first value of ``before`` that has it."""
        self.visited: set[int] = set()
        """Numbers of the values of ``after`` so far."""
        self._order = {node: i for i, node in enumerate(before.graph.nodes)}
        for node in before.graph.nodes:
            self._set_old(node, self._number(node, draws.get(node.name, node.name)))

    def visit(self, node: fx.Node) -> int:
        """Number a value of ``after`` whose operands have been visited."""
        self.of[node] = number = self._number(node, self._draws.get(node.name, node.name))
        self.visited.add(number)
        return number

    def merge(self, new: fx.Node, old: fx.Node) -> None:
        """Give a visited value and one of ``before`` the same number, and renumber the readers of the latter."""
        if self.of[new] not in self.old:
            self.of[new] = self.of[old]
            self.visited.add(self.of[old])
            return
        self._set_old(old, self.of[new])
        todo = set(old.users)
        while todo:
            node = min(todo, key=self._order.__getitem__)
            todo.remove(node)
            number = self._number(node, self._draws.get(node.name, node.name))
            if number != self.of[node]:
                self._set_old(node, number)
                todo |= set(node.users)

    def _set_old(self, node: fx.Node, number: int) -> None:
        self.of[node] = number
        self.old.setdefault(number, node)

    def _number(self, node: fx.Node, draw: str) -> int:
        if node.op == "get_attr":
            return self._number_of_weight(node)
        key = (
            node.op,
            str(node.target),
            frozen_call(node, self.of.__getitem__),
            draw if node.name in self._draws else None,
        )
        if node.op == "placeholder":
            key = (node.op, str(node.target))  # type: ignore[assignment]
        if key not in self._keys:
            self._keys[key] = self._new()
        return self._keys[key]

    def _new(self) -> int:
        self._made += 1
        return self._made

    def _number_of_weight(self, node: fx.Node) -> int:
        tensor = self._programs[id(node.graph)].tensor(node)
        if tensor is None:
            inner = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
            stateless = isinstance(inner, fx.GraphModule) and not inner.state_dict()
            key = ("graph", inner.code if stateless else id(inner))
            return self._keys.setdefault(key, self._keys.get(key) or self._new())
        few = tensor.detach().flatten()[:4].tolist()
        alike = self._weights.setdefault((tensor.dtype, tensor.shape, str(few)), [])
        for other, number in alike:
            if other is tensor or same_tensor(other, tensor):
                return number
        alike.append((tensor, self._new()))
        return alike[-1][1]


def candidates(before: Program, after: Program) -> dict[fx.Node, list[fx.Node]]:
    """For values of ``after`` those of ``before`` that calls of the same names read instead, which they should equal."""
    named = {node.name: node for node in before.graph.nodes}
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in after.graph.nodes:
        old = named.get(node.name)
        if old is None or old.op != node.op:
            continue
        if node.op == "output" or node.target == old.target:
            for operand, was in _paired(node.args, old.args) + _paired(node.kwargs, old.kwargs):
                if was not in found.setdefault(operand, []):
                    found[operand].append(was)
    return found


def _paired(new: Any, old: Any) -> list[tuple[fx.Node, fx.Node]]:
    if isinstance(new, fx.Node) and isinstance(old, fx.Node):
        return [(new, old)] if not new.op == old.op == "get_attr" else []
    if isinstance(new, (list, tuple)) and isinstance(old, (list, tuple)):
        return [pair for a, b in zip(new, old, strict=False) for pair in _paired(a, b)]
    if isinstance(new, dict) and isinstance(old, dict):
        return [pair for k in new.keys() & old.keys() for pair in _paired(new[k], old[k])]
    return []
