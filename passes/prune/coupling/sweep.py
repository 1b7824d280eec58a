"""One sweep over a graph that gives every value its axes, by the rule of each op."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.utils import _pytree as pytree

from fxopt import Program
from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.atoms import Atoms, Rows
from fxopt.passes.prune.coupling.axes import Axis

Axes = list[Axis]
Couple = Callable[["Sweep", fx.Node], Any]
"""Gives the axes of a node's value: one list, or a list of lists for an op with several outputs."""


@dataclass(frozen=True)
class Reason:
    """Why indices must stay: said about a node."""

    node: fx.Node
    text: str


@dataclass(frozen=True)
class Contraction:
    """A place that sums over indices ``rows``; ``operands`` are computed values with the dim that holds these.

    With a ``weight`` (a value that depends on weights alone), whose dim ``dim`` is summed over, ``blocks`` gives its
    elements as ``[block, row, index, position]``, each block having indices and rows of its own, ``spread`` gives one number
    an index the shape that multiplies the weight, and ``weight_rows`` are the monomials of all rows, None if these
    always live. Without a weight, every index counts whose operands are not known to be zero.
    """

    node: fx.Node
    rows: Rows
    operands: tuple[tuple[fx.Node, int], ...]
    weight: fx.Node | None = None
    dim: int = 0
    blocks: Callable[[torch.Tensor], torch.Tensor] | None = None
    spread: Callable[[torch.Tensor], torch.Tensor] | None = None
    weight_rows: Rows | None = None

    def over(self, twins: Mapping[fx.Node, fx.Node]) -> Contraction:
        """The same place in another program with the same graph."""
        operands = tuple((twins[node], dim) for node, dim in self.operands)
        weight = self.weight and twins[self.weight]
        return dataclasses.replace(self, node=twins[self.node], operands=operands, weight=weight)


@dataclass
class Sweep:
    """What is known of the values so far; the rules read and extend it."""

    program: Program
    atoms: Atoms = field(default_factory=Atoms)
    axes: dict[fx.Node, Any] = field(default_factory=dict)
    contractions: list[Contraction] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    notes: dict[fx.Node, Any] = field(default_factory=dict)
    """What a rule leaves for the rewrite of its op."""
    computed: set[fx.Node] = field(default_factory=set)
    """Nodes that depend on an input; the others depend on weights alone."""
    constants: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    """The weights whose contents a rule has read, as they were: indices."""
    _resolved: dict[int, tuple[Rows, Rows]] = field(default_factory=dict)

    def over(self, program: Program, twins: Mapping[fx.Node, fx.Node]) -> Sweep:
        """The same about the nodes of another program with the same graph."""

        def twin(value: Any) -> Any:
            return twins[value] if isinstance(value, fx.Node) else value

        moved = dataclasses.replace(
            self,
            program=program,
            axes={twins[node]: axes for node, axes in self.axes.items()},
            contractions=[contraction.over(twins) for contraction in self.contractions],
            reasons=[Reason(twins[reason.node], reason.text) for reason in self.reasons],
            notes={twins[node]: pytree.tree_map(twin, note) for node, note in self.notes.items()},
            computed={twins[node] for node in self.computed},
            constants={twins[node]: contents for node, contents in self.constants.items()},
        )
        moved.__dict__ |= {name: vars(self)[name] for name in ("arrays", "pinned") if name in vars(self)}
        return moved

    def of(self, node: Any) -> Axes:
        """The axes of a tensor; of a number none."""
        found = self.axes.get(node) if isinstance(node, fx.Node) else None
        return list(found) if found is not None else []

    def all_axes(self, node: fx.Node) -> Axes:
        """The axes of a value, all together for one that is several tensors."""
        axes = self.axes.get(node, [])
        return [axis for part in axes for axis in part] if axes and isinstance(axes[0], list) else axes

    def fixed(self, value: Any) -> Any:
        """Axes that never change, for a fake tensor or a list of them."""
        if isinstance(value, torch.Tensor):
            return [(n,) for n in ax.sizes_of(value)]
        return [self.fixed(v) for v in value] if isinstance(value, (tuple, list)) else []

    def because(self, node: fx.Node, text: str) -> int:
        """The number of a reason, to be pinned with."""
        reason = Reason(node, text)
        if not self.reasons or self.reasons[-1] != reason:
            self.reasons.append(reason)
        return len(self.reasons)

    def pin(self, axes: Iterable[Axis], node: fx.Node, text: str) -> None:
        """No index of ``axes`` may go, as ``node`` says."""
        for axis in axes:
            if not ax.is_fixed(axis):
                ax.pin(self.atoms, axis, self.because(node, text))

    def unite(self, a: Axis, b: Axis, node: fx.Node) -> Axis:
        """Let two axes of one length keep the same indices."""
        return ax.unite(
            self.atoms, a, b, self.because(node, "it meets a dim that stays, or one that is made up otherwise")
        )

    def broadcast(self, operands: list[Axes], node: fx.Node) -> Axes:
        """Axes of an element-wise result: sizes of 1 give way, the others are united."""
        result: Axes = []
        for i in range(1, max(map(len, operands), default=0) + 1):
            met = [axes[-i] for axes in operands if len(axes) >= i]
            wide = [axis for axis in met if ax.length(axis) != 1] or met[:1]
            axis = wide[0]
            for other in wide[1:]:
                axis = self.unite(axis, other, node)
            result.insert(0, axis)
        return result

    def resolve(self, rows: Rows) -> Rows:
        """Monomials in free atoms; to be asked when the sweep is done and nothing more is learned."""
        if not self._resolved:
            resolved = self.atoms.resolve_all(self.arrays)
            self._resolved = {id(r): (r, found) for r, found in zip(self.arrays, resolved, strict=True)}
        if id(rows) not in self._resolved:
            self._resolved[id(rows)] = (rows, self.atoms.resolve(rows))  # held, so that no other array gets its id
        return self._resolved[id(rows)][1]

    @functools.cached_property
    def arrays(self) -> list[Rows]:
        """The monomials of every dim of every value, each array once; to be asked when the sweep is done."""
        found: dict[int, Rows] = {}
        todo = list(self.axes.values())
        while todo:
            item = todo.pop()
            if isinstance(item, list):
                todo += item
            else:
                found |= {id(rows): rows for rows in ax.arrays(item)}
        return list(found.values())

    @functools.cached_property
    def pinned(self) -> NDArray[np.int64]:
        """The reason of every atom, 0 where it is free; to be asked when the sweep is done."""
        return self.atoms.pinned()

    def rows(self, axis: Axis, node: fx.Node) -> Rows | None:
        """Monomials of an axis; None (and pinned) where a dynamic size is part of it or nothing can go."""
        if ax.is_fixed(axis):
            return None
        rows = ax.rows_of(axis)
        if rows is None:
            self.pin([axis], node, "a dynamic size is merged into this dim")
        return rows


def sweep(program: Program, rules: Callable[[fx.Node], Couple | None]) -> Sweep:
    """Run the rules over a program. An op without a rule pins whatever it reads."""
    state = Sweep(program)
    weights: dict[int, Axes] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            state.axes[node] = state.fixed(node.meta.get("val"))
            state.computed.add(node)
        elif node.op == "get_attr":
            tensor = program.tensor(node)
            if tensor is not None:
                state.axes[node] = weights.setdefault(id(tensor), [_weight_axis(state, n) for n in tensor.shape])
        elif node.op == "call_function":
            if any(n in state.computed for n in node.all_input_nodes) or family(node) == "random":
                state.computed.add(node)
            state.axes[node] = _visit(state, node, rules(node))
        elif node.op == "output":
            for operand in node.all_input_nodes:
                state.pin(state.all_axes(operand), node, "it is an output of the model")
    return state


def _weight_axis(state: Sweep, size: int) -> Axis:
    return (state.atoms.fresh(size),) if size > 1 else (size,)


def _visit(state: Sweep, node: fx.Node, couple: Couple | None) -> Any:
    value = node.meta.get("val")
    if couple is not None:
        return couple(state, node)
    for operand in node.all_input_nodes:
        state.pin(state.all_axes(operand), node, f"{op_name(node)} has no coupling rule")
    return state.fixed(value)
