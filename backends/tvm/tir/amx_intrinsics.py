"""Matrix products in the tile registers of AMX: the loops of marked blocks are replaced by the processor's instructions.

For each step a register of positions is loaded with up to 64 bytes a row, and one of weights; one instruction multiplies and
accumulates all of it. The schedule marks three blocks, ZERO, MULTIPLY and STORE, whose loops define their semantics; here
their bodies are replaced. The tile configuration of each thread is annotated at the parallel loop, and inserted when that is
lowered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from fxopt.backends.tvm.graph.relax_utils import is_int
from fxopt.backends.tvm.machine.amx_registers import ROW, Registers
from fxopt.backends.tvm.tir.blocks import on_the_stack, rebuilt

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import (
        Buffer,
        BufferStore,
        Evaluate,
        For,
        PrimFunc,
        SBlock,
        Scalar,
        Stmt,
        TensorLoad,
        TensorRegion,
        Var,
    )

MARK = "fxopt.amx"
"""Annotation of a block: which of the three it is, and its registers."""
ZERO, MULTIPLY, STORE = "zero", "multiply", "store"
CONFIGURATION = "fxopt.amx.configuration"
"""Annotation of a parallel loop: the tile configuration of its threads."""
_INTRINSIC = "llvm.x86."
"""Prefix of LLVM's names of the instructions."""
_ROWS = 3
"""The loop over the rows of a register, after those of vectors, lines and registers of a line."""
_SUM = 4
"""Bytes of an accumulator."""
_emulation: ContextVar[str] = ContextVar("emulation", default="")


@contextlib.contextmanager
def emulated(prefix: str) -> Iterator[None]:
    """Within it, kernels are compiled for a machine without AMX: they call C functions in place of the instructions.

    The process has to have those loaded: ``int32_t <prefix>tilezero(int8_t)``, and so on, with the operands of LLVM's intrinsics.
    """
    token = _emulation.set(prefix)
    try:
        yield
    finally:
        _emulation.reset(token)


def use_amx_instructions(function: PrimFunc) -> PrimFunc:
    """The kernel with instructions in the marked blocks, and the registers set up in every thread."""
    from tvm.s_tir import SBlock
    from tvm.tirx import For, ForKind
    from tvm.tirx.stmt import stmt_seq
    from tvm_ffi import structural_map

    found: list[Registers] = []
    gone: list[Buffer] = []

    def instructions(block: SBlock) -> SBlock:
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
        return rebuilt(block, body=stmt_seq(*make(nest, registers)), init=None, annotations=rest)

    def without_sums(block: SBlock) -> SBlock:
        reads, writes = ([r for r in some if not _source(r).same_as(gone[0])] for some in (block.reads, block.writes))
        arrays = [array for array in block.alloc_buffers if not array.same_as(gone[0])]
        return rebuilt(block, reads=reads, writes=writes, alloc_buffers=arrays)

    body = structural_map(structural_map(function.body, (SBlock, instructions)), (SBlock, without_sums))

    def noted(loop: For) -> For:
        if loop.kind != ForKind.PARALLEL or not _uses_tiles(loop.body):
            return loop
        notes = {**loop.annotations, CONFIGURATION: found[0].configuration()}
        return For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body, None, notes, loop.step, loop.span)

    return function.with_body(structural_map(body, (For, noted)))


def configured(loop: For, body: Stmt) -> Stmt:
    """A body of statements, with the registers configured before it and released after it if ``loop`` is annotated so."""
    from tvm import tirx

    if CONFIGURATION not in loop.annotations:
        return body
    place = tirx.decl_buffer((8,), "int64", name="tile_configuration", scope="local", data_alignment=64)
    words = [_long(int(word)) for word in loop.annotations[CONFIGURATION]]
    stores = [tirx.BufferStore(place, word, [_long(i)]) for i, word in enumerate(words)]
    setup = _call("ldtilecfg", tirx.address_of(tirx.BufferLoad(place, [_long(0)])))
    return tirx.SeqStmt([on_the_stack(place), *stores, setup, body, _call("tilerelease")])


class _Nest:
    """Loops around one assignment, whose operands can be accessed at chosen iterations of the loops."""

    def __init__(self, body: Stmt) -> None:
        from tvm.s_tir import SBlockRealize
        from tvm.tirx import For

        self.loops: list[Var] = []
        while isinstance(body, For):
            self.loops.append(body.loop_var)
            body = body.body
        assert isinstance(body, SBlockRealize)
        self._values = {var.var: value for var, value in zip(body.block.iter_vars, body.iter_values, strict=True)}
        self.assignment = body.block.body

    def address(self, buffer: Buffer, indices: Sequence[Scalar], *rounds: int) -> Scalar:
        """The address of an element in the given iterations of the outermost loops, and the first of the others."""
        from tvm import tirx

        return tirx.address_of(self.element(buffer, indices, *rounds))

    def element(self, buffer: Buffer, indices: Sequence[Scalar], *rounds: int) -> Scalar:
        """That element."""
        from tvm import tirx

        return tirx.BufferLoad(buffer, self._at(indices, rounds))

    def stride(self, buffer: Buffer, indices: Sequence[Scalar], loop: int) -> int:
        """Distance in elements from one iteration of a loop to the next."""
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

    def _at(self, indices: Sequence[Scalar], rounds: Sequence[int]) -> list[Scalar]:
        from tvm import tirx
        from tvm.sym import Analyzer

        given = {
            var: tirx.const(rounds[i] if i < len(rounds) else 0, str(var.ty.dtype)) for i, var in enumerate(self.loops)
        }
        values = {var: _replaced(value, given) for var, value in self._values.items()}
        return [Analyzer().simplify(_replaced(index, values)) for index in indices]


def _replaced(expr: Scalar, values: dict[Var, Scalar]) -> Scalar:
    from tvm.tirx import Var
    from tvm_ffi import structural_map

    return structural_map(expr, (Var, lambda var: values.get(var, var)))


def _zero(nest: _Nest, registers: Registers) -> list[Stmt]:
    return [_call("tilezero", _byte(number)) for number, *_ in registers.sums]


def _multiply(nest: _Nest, registers: Registers) -> list[Stmt]:
    """Each register of positions by each of weights, loaded when first needed; those loaded in turn are in the outer loop."""
    product = nest.assignment.value.b
    data, weight = product.a.value, product.b.value
    stride = nest.stride(_source(data), data.indices, _ROWS)
    calls, read = list["Evaluate"](), set[object]()
    order = sorted(registers.sums, key=lambda found: found[3]) if registers.weights_pass else registers.sums
    for number, y, x, v in order:
        positions, weights = registers.positions[y, x], registers.weights[v]
        if (y, x) not in read:
            place = nest.address(_source(data), data.indices, 0, y, x)
            calls.append(_call("tileloadd64", _byte(positions), place, _long(stride)))
        if v not in read:
            place = nest.address(_source(weight), weight.indices, v)
            calls.append(_call("tileloadd64", _byte(weights), place, _long(ROW)))
        read |= {(y, x), v}
        calls.append(_call("tdpbusd", _byte(number), _byte(positions), _byte(weights)))
    return calls


def _store(nest: _Nest, registers: Registers) -> list[Stmt]:
    from tvm import tirx

    target = nest.assignment
    stride = ROW * registers.across  # of the array as TVM will shrink it to its accessed region
    calls = [
        _call("tilestored64", _byte(number), nest.address(target.buffer, target.indices, v, y, x), _long(stride))
        for number, y, x, v in registers.sums
    ]
    last = (registers.across - 1, registers.lines - 1, registers.down - 1, registers.height - 1, ROW // _SUM - 1)
    return [*calls, tirx.Evaluate(nest.element(target.buffer, target.indices, *last))]


def _call(name: str, *operands: Scalar) -> Evaluate:
    from tvm import tirx

    if prefix := _emulation.get():
        return tirx.Evaluate(tirx.call_extern("int32", f"{prefix}{name}", *operands))
    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"{_INTRINSIC}{name}", *operands))


def _source(access: TensorLoad | TensorRegion | BufferStore) -> Buffer:
    """The buffer of a load, store or region."""
    return access.buffer if hasattr(access, "buffer") else access.source


def _byte(value: int) -> Scalar:
    from tvm import tirx

    return tirx.const(value, "int8")


def _long(value: int) -> Scalar:
    from tvm import tirx

    return tirx.const(value, "int64")


def _uses_tiles(body: Stmt) -> bool:
    """Whether a body has an instruction on tile registers."""
    from tvm.tirx import Evaluate
    from tvm_ffi import structural_map

    found = []

    def note(statement: Evaluate) -> Evaluate:
        found.append((_emulation.get() or _INTRINSIC) in str(statement))
        return statement

    structural_map(body, (Evaluate, note))
    return any(found)
