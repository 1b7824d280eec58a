"""Matrix products in the tile registers of AMX: loops as TVM knows them, and in their place the processor's instructions.

A tile of sums is up to two by two registers of 16 positions by 16 output channels. For each step a register of positions
is read with up to 64 bytes a row, and one of weights; one instruction multiplies and adds all of it. The schedule marks
three blocks, ZERO, MULTIPLY and STORE, with loops that say what they do; here their bodies are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fxopt.backends.tvm.sizes import is_int

MARK = "fxopt.amx"
"""Annotation of a block: what it does, and which registers it does it with."""
ZERO, MULTIPLY, STORE = "zero", "multiply", "store"
_ROW = 64
"""Bytes of a row of sums, and of weights."""


@dataclass(frozen=True)
class Registers:
    """``lines`` by ``down`` by ``across`` registers of sums, each of ``height`` positions; ``step`` bytes are multiplied."""

    lines: int
    down: int
    across: int
    height: int
    step: int

    @property
    def sums(self) -> list[tuple[int, int, int, int]]:
        """The number of each register of sums, with its line, its place in the line, and its vector."""
        places = [(y, x, v) for y in range(self.lines) for x in range(self.down) for v in range(self.across)]
        return [(i, *place) for i, place in enumerate(places)]

    @property
    def positions(self) -> list[tuple[int, int, int]]:
        """The number of each register of positions, behind those of sums."""
        places = [(y, x) for y in range(self.lines) for x in range(self.down)]
        return [(len(self.sums) + i, *place) for i, place in enumerate(places)]

    @property
    def weights(self) -> list[tuple[int, int]]:
        """The number of each register of weights, behind those of positions."""
        return [(len(self.sums) + len(self.positions) + v, v) for v in range(self.across)]

    def configuration(self) -> bytes:
        """The 64 bytes of LDTILECFG: palette 1, bytes of a row, rows."""
        widths, heights = [0] * 8, [0] * 8
        for number, *_ in self.sums:
            widths[number], heights[number] = _ROW, self.height
        for number, *_ in self.positions:
            widths[number], heights[number] = self.step, self.height
        for number, _ in self.weights:
            widths[number], heights[number] = _ROW, self.step // 4
        rows = b"".join(width.to_bytes(2, "little") for width in widths)
        return bytes([1]) + bytes(15) + rows + bytes(16) + bytes(heights) + bytes(8)


def with_instructions(function: Any) -> Any:
    """The kernel with instructions in the marked blocks, and the registers set up in every thread."""
    from tvm.s_tir import SBlock
    from tvm.tirx import For, ForKind
    from tvm_ffi import structural_map

    found: list[Registers] = []
    gone: list[Any] = []

    def instructions(block: Any) -> Any:
        if MARK not in block.annotations:
            return block
        what, *sizes = block.annotations[MARK]
        registers = Registers(*(int(size) for size in sizes))
        found.append(registers)
        if str(what) == ZERO:
            gone.append(_source(block.writes[0]))
        nest = _Nest(block.body)
        make = {ZERO: _zero, MULTIPLY: _multiply, STORE: _store}[str(what)]
        rest = {key: value for key, value in block.annotations.items() if key != MARK}
        return SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, make(nest, registers), None,
            block.alloc_buffers, block.match_buffers, rest,
        )  # fmt: skip

    def without_sums(block: Any) -> Any:
        reads, writes = ([r for r in some if not _source(r).same_as(gone[0])] for some in (block.reads, block.writes))
        arrays = [array for array in block.alloc_buffers if not array.same_as(gone[0])]
        return SBlock(
            block.iter_vars, reads, writes, block.name_hint, block.body, block.init, arrays, block.match_buffers,
            block.annotations,
        )  # fmt: skip

    body = structural_map(structural_map(function.body, (SBlock, instructions)), (SBlock, without_sums))

    def configured(loop: Any) -> Any:
        if loop.kind != ForKind.PARALLEL or not _uses_tiles(loop.body):
            return loop
        inner = _configured(loop.body, found[0])
        return For(loop.loop_var, loop.min, loop.extent, loop.kind, inner, None, loop.annotations, loop.step, loop.span)

    return function.with_body(structural_map(body, (For, configured)))


class _Nest:
    """Loops around one assignment, whose operands can be asked for at chosen rounds of the loops."""

    def __init__(self, body: Any) -> None:
        from tvm.s_tir import SBlockRealize
        from tvm.tirx import For

        self.loops: list[Any] = []
        while isinstance(body, For):
            self.loops.append(body.loop_var)
            body = body.body
        assert isinstance(body, SBlockRealize)
        self._values = {var.var: value for var, value in zip(body.block.iter_vars, body.iter_values, strict=True)}
        self.assignment = body.block.body

    def address(self, buffer: Any, indices: Any, *rounds: int) -> Any:
        """Where an element is in the given rounds of the outermost loops, and in the first of the others."""
        from tvm import tirx

        return tirx.address_of(self.element(buffer, indices, *rounds))

    def element(self, buffer: Any, indices: Any, *rounds: int) -> Any:
        """That element."""
        from tvm import tirx

        return tirx.BufferLoad(buffer, self._at(indices, rounds))

    def stride(self, buffer: Any, indices: Any, loop: int) -> int:
        """Elements from one round of a loop to the next."""
        from tvm.sym import Analyzer

        one = tuple(int(i == loop) for i in range(len(self.loops)))
        distance, size = 0, 1
        pairs = zip(self._at(indices, one), self._at(indices, ()), buffer.shape, strict=True)
        for after, before, extent in reversed(list(pairs)):
            step = Analyzer().simplify(after - before)
            if int(step):
                distance += int(step) * size
            size = size * int(extent) if is_int(extent) else 0
        return distance

    def _at(self, indices: Any, rounds: Any) -> list[Any]:
        from tvm import tirx
        from tvm.sym import Analyzer

        given = {
            var: tirx.const(rounds[i] if i < len(rounds) else 0, str(var.ty.dtype)) for i, var in enumerate(self.loops)
        }
        values = {var: _replaced(value, given) for var, value in self._values.items()}
        return [Analyzer().simplify(_replaced(index, values)) for index in indices]


def _replaced(expr: Any, values: dict[Any, Any]) -> Any:
    from tvm.tirx import Var
    from tvm_ffi import structural_map

    return structural_map(expr, (Var, lambda var: values.get(var, var)))


def _zero(nest: _Nest, registers: Registers) -> Any:
    return _sequence([_call("tilezero", _byte(number)) for number, *_ in registers.sums])


def _multiply(nest: _Nest, registers: Registers) -> Any:
    product = nest.assignment.value.b
    data, weight = product.a.value, product.b.value
    row = 3  # behind the loops of vectors, lines and registers of a line
    stride = nest.stride(_source(data), data.indices, row)
    calls = []
    for number, y, x in registers.positions:
        calls.append(
            _call("tileloadd64", _byte(number), nest.address(_source(data), data.indices, 0, y, x), _long(stride))
        )
    for number, v in registers.weights:
        calls.append(_call("tileloadd64", _byte(number), nest.address(_source(weight), weight.indices, v), _long(_ROW)))
    of_place = {(y, x): number for number, y, x in registers.positions}
    of_vector = {v: number for number, v in registers.weights}
    for number, y, x, v in registers.sums:
        calls.append(_call("tdpbusd", _byte(number), _byte(of_place[y, x]), _byte(of_vector[v])))
    return _sequence(calls)


def _store(nest: _Nest, registers: Registers) -> Any:
    target = nest.assignment
    calls = [
        _call("tilestored64", _byte(number), nest.address(target.buffer, target.indices, v, y, x), _long(_ROW))
        for number, y, x, v in registers.sums
    ]
    last = (registers.across - 1, registers.lines - 1, registers.down - 1, registers.height - 1, _ROW // 4 - 1)
    # TVM makes arrays as small as what it sees of their use
    return _sequence([*calls, _touch(nest.element(target.buffer, target.indices, *last))])


def _touch(element: Any) -> Any:
    from tvm import tirx

    return tirx.Evaluate(element)


def _configured(body: Any, registers: Registers) -> Any:
    """Set the registers up, run a body, and give them back."""
    from tvm import tirx

    words = registers.configuration()
    place = tirx.decl_buffer((8,), "int64", name="tile_configuration", scope="local", data_alignment=64)
    stores = [
        tirx.BufferStore(place, _long(int.from_bytes(words[8 * i : 8 * i + 8], "little", signed=True)), [_long(i)])
        for i in range(8)
    ]
    setup = _call("ldtilecfg", tirx.address_of(tirx.BufferLoad(place, [_long(0)])))
    return tirx.SeqStmt([tirx.AllocBuffer(place), *stores, setup, body, _call("tilerelease")])


def _call(name: str, *operands: Any) -> Any:
    from tvm import tirx

    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *operands))


def _sequence(statements: list[Any]) -> Any:
    from tvm import tirx

    return tirx.SeqStmt(statements) if len(statements) > 1 else statements[0]


def _source(access: Any) -> Any:
    """The array that a load or a region is of."""
    return access.buffer if hasattr(access, "buffer") else access.source


def _byte(value: int) -> Any:
    from tvm import tirx

    return tirx.const(value, "int8")


def _long(value: int) -> Any:
    from tvm import tirx

    return tirx.const(value, "int64")


def _uses_tiles(body: Any) -> bool:
    """Whether there is an instruction on tiles in a body."""
    from tvm.tirx import Evaluate
    from tvm_ffi import structural_map

    found = []

    def note(statement: Any) -> Any:
        found.append("call_llvm_intrin" in str(statement))
        return statement

    structural_map(body, (Evaluate, note))
    return any(found)
