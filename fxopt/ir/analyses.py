"""Results of analyses, kept beside a program and handed to its copies, for as long as what they read is what it was.

A pass does not say which of them it preserves: a result is kept with everything that it was computed from, and is taken for
a program that has just that. So weights with other contents, as after training or zeroing, keep what was found in a graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import fx

Twins = Mapping[fx.Node, fx.Node]
"""For the nodes of one graph those of another, at the same places."""


class Readable(Protocol):
    """What an analysis reads: a graph and its weights, as :class:`fxopt.Program` has them."""

    @property
    def graph(self) -> fx.Graph:
        """Its nodes."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its weights, by the name that nodes read them by."""

    def tensor(self, node: Any) -> torch.Tensor | None:
        """The weight that a node reads."""


class Result(Protocol):
    """What an analysis found in a graph, with the ops, the types of values, and which weights are one tensor.

    ``constants`` are the weights of which it read the contents too, as they were: nothing writes into these copies.
    """

    constants: dict[fx.Node, torch.Tensor]

    def over(self, program: Any, twins: Twins) -> Self:
        """The same result about the nodes of another program."""


_Program = TypeVar("_Program", bound=Readable)
_Found = TypeVar("_Found", bound=Result)


class Analyses:
    """The results that are known of one program, by the function that computes them."""

    def __init__(self, source: Analyses | None = None) -> None:
        self._known: dict[Any, tuple[_Graph, Any]] = {}
        # weakly, as results hold the nodes of a program, and these its weights
        self._source = weakref.ref(source) if source is not None else None

    def __reduce__(self) -> Any:
        return Analyses, ()

    def of_copy(self) -> Analyses:
        """For a copy of the program: it takes what is known of this one, as long as this one exists."""
        return Analyses(self if self._known or self._source is None else self._source())

    def get(self, compute: Callable[[_Program], _Found], program: _Program) -> _Found:
        """``compute(program)``, or what it gave before if all that it reads is the same."""
        source = self._source() if self._source is not None else None
        for known in (self._known, source._known if source is not None else {}):
            if compute not in known:
                continue
            graph, found = known[compute]
            if (twins := graph.twins(program)) is None:
                continue
            if graph.graph is not program.graph:
                self._known[compute] = _Graph(program, found := found.over(program, twins)), found
            return found
        found = compute(program)
        self._known[compute] = _Graph(program, found), found
        return found


class _Graph:
    """A graph as an analysis read it."""

    def __init__(self, program: Readable, found: Result) -> None:
        self.graph = program.graph
        self._nodes = [(n, n.op, n.target, n.args, n.kwargs, n.meta.get("val")) for n in program.graph.nodes]
        self._weights = _weights(program)
        self._constants = found.constants

    def twins(self, program: Readable) -> Twins | None:
        """The nodes of a program in which the analysis would read the same; None for any other program."""
        twins: dict[fx.Node, fx.Node] = {}
        if len(program.graph.nodes) != len(self._nodes) or _weights(program) != self._weights:
            return None
        for new, (old, op, target, args, kwargs, value) in zip(program.graph.nodes, self._nodes, strict=True):
            if new.op != op or new.target != target or not _one_value(value, new.meta.get("val")):
                return None
            if not _same(args, new.args, twins) or not _same(kwargs, new.kwargs, twins):
                return None
            twins[old] = new
        for node, contents in self._constants.items():
            now = program.tensor(twins[node])
            if now is None or not torch.equal(contents, now):
                return None
        return twins


def _weights(program: Readable) -> list[Any]:
    """Dtype and shape of what every ``get_attr`` reads, and the number of the first that reads the same tensor."""
    tensors = program.tensors()
    first: dict[int, int] = {}
    found: list[Any] = []
    for node in program.graph.find_nodes(op="get_attr", sort=True):
        tensor = tensors.get(str(node.target))
        read = None if tensor is None else (tensor.dtype, tensor.shape, first.setdefault(id(tensor), len(found)))
        found.append(read)
    return found


def _one_value(old: Any, new: Any) -> bool:
    """Whether two nodes have the very same fake value, as copies of a graph do; one derived anew may have other sizes."""
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(map(_one_value, old, new))
    return old is new


def _same(old: Any, new: Any, twins: Twins) -> bool:
    """Whether arguments are the same, nodes being so if they are twins."""
    if isinstance(old, fx.Node):
        return twins.get(old) is new
    if type(old) is not type(new):
        return False
    if isinstance(old, (list, tuple)):
        return len(old) == len(new) and all(_same(a, b, twins) for a, b in zip(old, new, strict=True))
    if isinstance(old, dict):
        return list(old) == list(new) and all(_same(value, new[key], twins) for key, value in old.items())
    if isinstance(old, slice):
        return _same((old.start, old.stop, old.step), (new.start, new.stop, new.step), twins)
    return old is new or (isinstance(old, (bool, int, float, str, torch.device)) and old == new)
