"""The text form of :mod:`fxopt.ir.printer` back to a Program, for tests, goldens and the examples in docstrings.

::

    %x : f32[batch,3,8,8]                       an input; a name for a size makes it dynamic
    %w = param "conv.weight" : f32[8,3,3,3]     a weight, with values drawn from the seed and its name
    %m = param "mask" : f32[2,2] = [[1, 0], [0, 1]]   a weight with these values
    %y = aten.conv2d(%x, %w, None, [1, 1])      an op; the overload is written where it is not `default`
    return %y                                   the outputs; the last value if there is no such line

One statement a line, or several with ``;`` between; ``#`` begins a comment. The type after an op is optional, and checked
if given. A source line after it is ignored. The text is parsed, never executed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from fxopt.errors import PassError
from fxopt.ir.builder import assemble
from fxopt.ir.parser_tokens import Position, find_op, read_arguments, scan_call
from fxopt.ir.parser_types import CONSTANTS, TensorType, example_input, example_weight, read_type
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.structural_equal import canonical_text as canonical_text
from fxopt.ir.structural_equal import same_text as same_text

_INPUT = re.compile(r"%(\w+)\s*:")
_ASSIGN = re.compile(r"%(\w+)\s*=\s*")
_PARAM = re.compile(r"param\s+\"([^\"]+)\"\s*")
_QUOTED_OR_END = re.compile(r"\"[^\"]*\"|'(?:[^'\\]|\\.)*'|[;#]")
_TYPE_AND_SOURCE = re.compile(r"\s*(?::\s*(?P<type>\S.*?))?(?:\s{2,}\S.*:\d+)?\s*")
_RETURN = re.compile(r"return\b\s*")


def parse_program(text: str, *, seed: int = 0) -> Program:
    """Parse a Program from its text form, with example inputs and weights drawn from ``seed``.

    Floating weights are normal with a spread of 1 / sqrt(fan-in); those named like a variance or a scale are between
    0.5 and 1.5. Integers that may be indices (i64, i32) are 0 or 1. A dynamic size is 1 or more; the example has 2 for
    the first one named, and 8, 12, 16 … for others. The program takes its inputs as positional arguments and returns
    a tensor, or a tuple of several.

    Raises UsageError with line, column and what was expected; UnknownNameError, which is one, for an op.
    """
    return _Reader(seed).read(text)


class _Reader:
    """State while reading: the graph so far, values by name, dynamic sizes by name."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.nodes: dict[str, fx.Node] = {}
        self.places: dict[str, Position] = {}
        self.sizes: dict[str, tuple[int, torch.SymInt]] = {}
        self.inputs: list[Any] = []
        self.weights: dict[str, str] = {}
        self.claims: list[tuple[fx.Node, TensorType, Position]] = []
        self.returned: Any = None

    def read(self, text: str) -> Program:
        place = Position(text, "", 1, 0)
        for place in statements(text):
            if self.returned is not None:
                raise place.error("nothing after the return line")
            self._statement(place)
        if not self.nodes:
            raise place.error("an input such as '%x : f32[2,4]'")
        last = list(self.nodes.values())[-1]
        outputs = self.returned if self.returned is not None else (last,)
        program = assemble(self.root, self.graph, self.inputs, outputs)
        program.ranges = {str(symbol): (1, None) for _, symbol in self.sizes.values()}
        try:
            derive_shapes(program)
        except PassError as error:
            raise self.places.get(error.node_name or "", place).error(f"operands that fit\n  {error}") from error
        self._check_types(program)
        return program

    def _statement(self, place: Position) -> None:
        if match := _RETURN.match(place.text):
            self.returned = read_arguments(place, match.end(), len(place.text), self.nodes)[0]
            if not self.returned:
                raise place.error("a value to return, 'return %y'", match.end())
        elif match := _INPUT.match(place.text):
            self._input(place, match)
        elif match := _ASSIGN.match(place.text):
            self._is_free(place, match[1])
            if param := _PARAM.match(place.text, match.end()):
                self._param(place, match[1], param)
            else:
                self._call(place, match[1], match.end())
        else:
            raise place.error("'%x : type', '%w = param \"name\" : type', '%y = op(…)' or 'return %y'")

    def _is_free(self, place: Position, name: str) -> None:
        if name in self.nodes:
            raise place.error(f"a new name, %{name} is taken", 0)

    def _add(self, place: Position, name: str, node: fx.Node) -> fx.Node:
        self.nodes[name] = node
        self.places[name] = place
        return node

    def _input(self, place: Position, match: re.Match[str]) -> None:
        self._is_free(place, match[1])
        kind, _ = read_type(place, match.end())
        node = self._add(place, match[1], self.graph.create_node("placeholder", match[1], name=match[1]))
        if isinstance(kind, str):
            node.meta["val"] = CONSTANTS[kind]
            self.inputs.append(CONSTANTS[kind])
            return
        shape = [self._size(size) if isinstance(size, str) else (size, size) for size in kind.shape]
        with self.mode:
            node.meta["val"] = torch.empty([symbol for _, symbol in shape], dtype=kind.dtype)
        self.inputs.append(example_input([hint for hint, _ in shape], kind.dtype, self.seed, match[1]))

    def _size(self, name: str) -> tuple[int, torch.SymInt]:
        if name not in self.sizes:
            hint = 4 + 4 * len(self.sizes) if self.sizes else 2
            source = ConstantSource(f"s{len(self.sizes)}")
            symbol = self.env.create_symbol(hint, source, DimDynamic.DYNAMIC, do_not_specialize_zero_one=True)
            made: Any = self.env.create_symintnode(symbol, hint=hint)
            self.sizes[name] = (hint, made)
        return self.sizes[name]

    def _param(self, place: Position, name: str, match: re.Match[str]) -> None:
        colon = place.text.find(":", match.end())
        if colon < 0 or place.text[match.end() : colon].strip():
            raise place.error("':' and the type of the weight", match.end())
        kind, end = read_type(place, colon + 1)
        if isinstance(kind, str) or any(isinstance(size, str) for size in kind.shape):
            raise place.error("a tensor type of numbers, such as f32[8,3,3,3]", colon + 1)
        shape = [int(size) for size in kind.shape]
        target, given = match[1], str(kind)
        if self.weights.setdefault(target, given) != given:
            raise place.error(f"the type that {target!r} has already, {self.weights[target]}", colon + 1)
        value = _literal(place, end, shape, kind.dtype)
        value = example_weight(shape, kind.dtype, self.seed, target) if value is None else value
        _store(self.root, target, value, place)
        self._add(place, name, self.graph.create_node("get_attr", target, name=name))

    def _call(self, place: Position, name: str, start: int) -> None:
        paren, close = scan_call(place, start)
        target = find_op(place, start, paren)
        args, kwargs = read_arguments(place, paren + 1, close, self.nodes)
        node = self.graph.create_node("call_function", target, args, kwargs, name=name)
        self._add(place, name, node)
        rest = _TYPE_AND_SOURCE.fullmatch(place.text, close + 1)
        if rest is None:
            raise place.error("nothing, or ': type', after the arguments", close + 1)
        if rest["type"]:
            kind, _ = read_type(place, rest.start("type"), several=True)
            if isinstance(kind, TensorType):
                self.claims.append((node, kind, place))

    def _check_types(self, program: Program) -> None:
        dims = program.dims()
        named = {name: dims.get(str(symbol), name) for name, (_, symbol) in self.sizes.items()}
        for node, kind, place in self.claims:
            value = node.meta.get("val")
            want = kind.renamed(named)
            got = type_text(value, dims)
            known = isinstance(value, torch.Tensor) and all(isinstance(s, int) or str(s) in dims for s in value.shape)
            if known and got != str(want):
                raise place.error(f"the type that follows from the operands, {got}, got {want}", place.text.rindex(":"))


def _literal(place: Position, start: int, shape: list[int], dtype: torch.dtype) -> torch.Tensor | None:
    """The values after a weight's type; None if there are none."""
    rest = place.text[start:].strip()
    if not rest.startswith("="):
        return None
    try:
        value = torch.tensor(ast.literal_eval(rest[1:].strip()), dtype=dtype)
    except (ValueError, SyntaxError, TypeError) as error:
        raise place.error(f"values such as [[1, 0], [0, 1]] ({error})", start) from None
    if list(value.shape) != shape:
        raise place.error(f"values of the shape {shape}, got {list(value.shape)}", start)
    return value


def statements(text: str) -> Iterator[Position]:
    """Yield the statements of a text with their positions, without comments and empty ones."""
    for number, line in enumerate(text.splitlines(), 1):
        start = 0
        for end in [*_ends(line), len(line)]:
            piece = line[start:end]
            if piece.strip():
                yield Position(text, piece.strip(), number, start + len(piece) - len(piece.lstrip()))
            start = end + 1
            if line[end:start] == "#":
                break


def _ends(line: str) -> list[int]:
    """Where ``;`` and ``#`` stand outside quotes."""
    return [match.start() for match in _QUOTED_OR_END.finditer(line) if match[0] in ";#"]


def _store(root: torch.nn.Module, target: str, value: torch.Tensor, place: Position) -> None:
    owner = root
    *path, leaf = target.split(".")
    try:
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner.get_submodule(part)
        if value.is_floating_point() and "running_" not in leaf:
            owner.register_parameter(leaf, torch.nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)
    except (KeyError, AttributeError) as error:
        if leaf not in owner._parameters and leaf not in owner._buffers:
            raise place.error(f"a weight name that a module can hold ({error})") from None
