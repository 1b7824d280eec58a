"""What every value must be divided by: labels of factors, propagated back from the readers to the weights that absorb them.

A *need* is an int64 tensor that broadcasts to a value's shape (example sizes for the dynamic dims). Each element is the
label of a factor, ``ONE`` where the value must not change, or ``FREE`` where nothing reads it. Two labels for the same
element are one factor; a label with ``ONE`` for the same element is pinned, which means that its factor is 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx

from fxopt import Program
from fxopt.ir.op_table import Shape
from fxopt.ir.printer import op_name
from fxopt.ir.shape_inference import concrete_shapes

FREE, ONE = -1, 0
AS_IT_IS = torch.tensor(ONE)


@dataclass
class Needs:
    """The needs of all values so far, and which labels are one factor, and which are pinned."""

    program: Program
    values: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    columns: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    """By weight ``[out, in]`` of a linear: the label of each column, int64 ``[in]``."""
    count: int = 1
    equal: list[torch.Tensor] = field(default_factory=list)
    """Pairs of labels, int64 ``[n, 2]``, that are one factor."""
    pinned: list[tuple[torch.Tensor, str]] = field(default_factory=list)
    """Labels whose factor is 1, and why; the first reason of a label counts."""
    takers: set[fx.Node] = field(default_factory=set)
    """Values that can be divided, as far as the ops before and right after them go."""
    _asked: dict[fx.Node, fx.Node] = field(default_factory=dict)
    _whole: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shape = concrete_shapes(self.program)
        tied: dict[int, fx.Node] = {}
        self.numbers = _numbers(self.program, self.shape)
        stored = ((n, self.program.tensor(n)) for n in self.program.graph.nodes)
        self._first = {node: tied.setdefault(id(tensor), node) for node, tensor in stored if tensor is not None}

    def first(self, node: fx.Node) -> fx.Node:
        """The representative of a weight under all its names; any other node is its own."""
        return self._first.get(node, node)

    def asker(self, node: fx.Node) -> fx.Node:
        """The op that needs the value of ``node`` unchanged, maybe through others; ``node`` if none does."""
        return self._asked.get(node, node)

    def require(self, node: fx.Node, need: torch.Tensor, asker: fx.Node, *, rows: bool = False) -> None:
        """Add the need of one reader of a value; ``asker`` is the op that needs it unchanged, where ``need`` says so.

        ``rows``: the reader is a linear, the value its weight, and the need one of its rows alone.
        """
        if not is_real(node):
            return
        node = self.first(node)
        if node.op == "get_attr" and not rows:
            self._whole.setdefault(node, asker)
        as_it_is = bool((need == ONE).any())
        old = self.values.get(node)
        if old is not None:
            old, need = torch.broadcast_tensors(old, need)
            both = (old >= 0) & (need >= 0)
            culprit = asker if as_it_is else self.asker(node)
            self.unite(old[both], need[both], _also_read(culprit))
            need = torch.where(old >= 0, old, need)
        if as_it_is:
            self._asked.setdefault(node, asker)
        self.values[node] = need

    def read_as_it_is(self, weight: fx.Node) -> bool:
        """Whether all outputs of the linears with this weight must stay unchanged."""
        return bool((self.values.get(weight, torch.tensor(FREE)) == ONE).all())

    def label_columns(self, weight: fx.Node) -> torch.Tensor:
        """The labels of a linear weight's columns, int64 ``[in]``; the same for every linear that reads it."""
        weight = self.first(weight)
        if weight not in self.columns:
            size = self.shape(weight)[1]
            self.columns[weight] = torch.arange(self.count, self.count + size)
            self.count += size
        return self.columns[weight]

    def unite(self, one: torch.Tensor, other: torch.Tensor, reason: str) -> None:
        """Labels of the same element are one factor; where one of them is ``ONE``, the other is pinned for ``reason``."""
        differ = one != other
        if not bool(differ.any()):
            return
        pairs = torch.stack([one[differ], other[differ]], 1).sort(1).values.unique(dim=0)
        as_it_is = pairs[:, 0] == ONE
        self.equal.append(pairs[~as_it_is])
        self.pin(pairs[as_it_is, 1], reason)

    def unite_over(self, need: torch.Tensor, dims: list[int]) -> torch.Tensor:
        """Unite the labels of all indices of ``dims``, which get size 1."""
        if not dims:
            return need
        top = need.amax(dims, keepdim=True)
        read = need >= 0
        self.unite(need[read], top.expand_as(need)[read], "a part of what it reads is needed as it is")
        return top

    def pin(self, labels: torch.Tensor, reason: str) -> None:
        """The factors of these labels are 1."""
        labels = labels[labels > ONE].unique()
        if len(labels):
            self.pinned.append((labels, reason))

    def pin_shared_weights(self) -> None:
        """Pin the columns of weights with readers other than linear layers. To be called at the end."""
        for weight, labels in self.columns.items():
            if weight in self._whole:
                self.pin(labels, f"its weight is also read by {op_name(self._whole[weight])}")


def is_tensor(node: fx.Node) -> bool:
    """Whether the value is one tensor: not a number, and not several."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def is_real(node: fx.Node) -> bool:
    """Whether the value is one tensor of floating numbers."""
    return is_tensor(node) and node.meta["val"].is_floating_point()


def _numbers(program: Program, shape: Shape) -> dict[fx.Node, int]:
    """The sizes that the graph reads and computes, for the example inputs."""
    known: dict[fx.Node, int] = {}
    for node in program.graph.nodes:
        if not isinstance(node.meta.get("val"), (int, torch.SymInt)):
            continue
        if op_name(node) == "aten.sym_size.int":
            source, dim = node.args
            known[node] = shape(source)[dim]
        elif node.op == "call_function" and all(n in known for n in node.all_input_nodes):
            known[node] = node.target(*fx.map_arg(node.args, known.__getitem__))
    return known


def _also_read(by: fx.Node) -> str:
    if by.op == "output":
        return "what it reads is also an output of the model"
    return f"what it reads is also read by {op_name(by)}, which needs it as it is"
