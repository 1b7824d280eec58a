"""Find a stream: the values whose channels are added to each other, what writes into them and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import fx

from fxopt.ir.alias_analysis import alias_sets, written_sets
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.stream.channels import Source, reads_numbers, results, sizes, sources
from fxopt.passes.stream.layers import Held, written_by

Through = Callable[[fx.Node], bool]
"""Whether a norm is passed through, as the change of basis that is meant commutes with it."""


@dataclass(eq=False)
class Stream:
    """Values with one dim of channels each; in ``values`` that dim by value.

    ``weights`` make its channels: those of layers, and tables that are added. ``foreign`` are values from elsewhere with
    the calls of the stream that read them, ``readers`` the calls outside with the values they read.
    """

    channels: int
    values: dict[fx.Node, int] = field(default_factory=dict)
    weights: list[Held] = field(default_factory=list)
    foreign: list[tuple[fx.Node, fx.Node, int]] = field(default_factory=list)
    readers: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    broken: tuple[fx.Node, str] | None = None
    """Why it cannot be changed as a whole, said about a node."""

    def why_broken(self, norm: fx.Node) -> str | None:
        """Why it cannot be changed as a whole, for a report about one of its norms."""
        if self.broken is None:
            return None
        node, reason = self.broken
        return reason if node in norm.all_input_nodes else f"{reason} (%{node.name})"


def find_stream(program: Program, start: Source, channels: int, through: Through = lambda _: False) -> Stream:
    """The stream that a value belongs to whose dim holds so many channels.

    A value belongs to it if it is a sum, a part or a rearrangement of others that do, or of what layers and stored tables
    give, whatever modules and names they have.
    """
    return _Search(program, through, Stream(channels)).run(start)


@dataclass
class _Search:
    program: Program
    through: Through
    stream: Stream
    todo: list[Source] = field(default_factory=list)
    _known: dict[Source, list[Source]] = field(default_factory=dict)

    def run(self, start: Source) -> Stream:
        node, dim = start
        if not self._is_writable(node, dim):
            self.stream.broken = (
                node,
                f"what it reads comes from {_call(node)}, no layer whose weights could be changed",
            )
            return self.stream
        self._add(node, dim)
        while self.todo:
            node, dim = self.todo.pop()
            self._above(node, dim)
            self._below(node, dim)
        self._check_writes()
        return self.stream

    def _is_writable(self, node: fx.Node, dim: int) -> bool:
        """Whether a stored weight goes into a value, so that it can be changed; others are taken as they are."""
        todo, seen = [(node, dim)], {(node, dim)}
        while todo:
            source = todo.pop()
            if source[0].op == "get_attr" or written_by(self.program, *source):
                return True
            above = [found for found in self._sources(*source) if found not in seen]
            # a table that is added to another value does not make that one a value of the stream
            above = [found for found in above if found[0].op != "get_attr"] or above
            seen.update(above)
            todo += above
        return False

    def _add(self, node: fx.Node, dim: int) -> None:
        if self.stream.values.setdefault(node, dim) != dim:
            self.stream.broken = (node, "the channels of its stream meet in two of its dims")
        else:
            self.todo.append((node, dim))

    def _above(self, node: fx.Node, dim: int) -> None:
        if held := written_by(self.program, node, dim):
            self.stream.weights += held
            return
        for operand, at in self._sources(node, dim):
            if self.program.tensor(operand) is not None:
                self.stream.weights.append(Held(node, operand, at))
            elif operand in self.stream.values:
                if self.stream.values[operand] != at:
                    self.stream.broken = (operand, "the channels of its stream meet in two of its dims")
            elif self._is_writable(operand, at):
                self._add(operand, at)
            else:
                self.stream.foreign.append((operand, node, at))

    def _below(self, node: fx.Node, dim: int) -> None:
        for user in node.users:
            if not reads_numbers(user):
                continue
            found = list(results(user)) if user.op == "call_function" else []
            for result in found or [user]:
                place = self._place(result, (node, dim)) if found else None
                if place is None:
                    self.stream.readers.append((result, node))
                elif result not in self.stream.values:
                    self._add(result, place)

    def _place(self, result: fx.Node, source: Source) -> int | None:
        """The dim of a result that holds the channels of a source."""
        dims = [d for d, size in enumerate(sizes(result)) if size % self.stream.channels == 0]
        dims.sort(key=lambda d: d - len(sizes(result)) != source[1] - len(sizes(source[0])))  # most ops keep the place
        return next((d for d in dims if source in self._sources(result, d)), None)

    def _sources(self, node: fx.Node, dim: int) -> list[Source]:
        if self.through(node):
            return [(node.args[0], dim)] if dim == len(sizes(node)) - 1 else []  # type: ignore[list-item]
        if (node, dim) not in self._known:
            self._known[node, dim] = sources(node, dim, self.stream.channels)
        return self._known[node, dim]

    def _check_writes(self) -> None:
        sets = alias_sets(self.program.graph)
        dirty = written_sets(self.program.graph, sets)
        bad = next((value for value in self.stream.values if sets[value] in dirty), None)
        if bad is not None:
            self.stream.broken = (bad, "its memory is written to: run functionalize_writes first")


def _call(node: fx.Node) -> str:
    return (
        "an input of the model"
        if node.op == "placeholder"
        else op_name(node)
        if node.op == "call_function"
        else node.op
    )
