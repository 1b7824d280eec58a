"""Products of a recurrent layer's state with its weights, summed in registers; what follows on the sums of a gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fxopt.backends.tvm.frontend.recurrent.scalar_function import scalar_function

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Buffer, Scalar

LANES = 16
"""Units of a block: a vector of AVX-512; narrower vectors take several."""
_CHAINS = 8
"""Sums under way at once, or about so many: processors begin two products in a cycle, and each takes four cycles."""


@dataclass(frozen=True)
class Gate:
    """The sums of one gate in a block, for the example in ``row``; the first ``count`` lanes are units."""

    sums: Buffer
    row: int
    gate: int
    count: int

    def __getitem__(self, lane: Scalar) -> Scalar:
        """The sum of a unit."""
        return self.sums[self.row, self.gate, 0, lane]

    def set(self, value: Callable[[Scalar], Scalar]) -> None:
        """Store the value of each lane."""
        with lanes(self.count) as v:
            store(self.sums, value(v), self.row, self.gate, 0, v)

    def copy(self, to: Callable[[Scalar], tuple[Buffer, tuple[Scalar, ...]]]) -> None:
        """Store each lane into a buffer too, at the place that ``to`` gives."""
        with lanes(self.count) as v:
            buffer, at = to(v)
            store(buffer, self[v], *at)

    def tanh(self) -> None:
        """In place; of float32 the rational function that TVM has for whole vectors."""
        from tvm import tirx, topi

        dtype = str(self.sums.dtype)
        self.set(
            lambda v: scalar_function(topi.fast_tanh, self[v], dtype) if dtype == "float32" else tirx.tanh(self[v])
        )

    def sigmoid(self) -> None:
        """In place, by the tanh of half the sum."""
        from tvm import tirx

        half = tirx.const(0.5, str(self.sums.dtype))
        self.set(lambda v: self[v] * half)
        self.tanh()
        self.set(lambda v: self[v] * half + half)


def products(
    weight: Buffer, number: Scalar, count: int, examples: list[Scalar], state: Callable[[Scalar, Scalar], Scalar],
    start: Callable[[Scalar, int, Scalar], Scalar] | None,
) -> Buffer:  # fmt: skip
    """Products of the state with a block of the weight, [row, gate, 0, lane], begun with ``start``."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    width, gates, dtype = int(weight.shape[1]), int(weight.shape[2]), str(weight.dtype)
    chains = max(1, _CHAINS // (gates * len(examples)))
    sums = T.alloc_buffer((len(examples), gates, chains, LANES), dtype, scope="local")
    places = [(row, gate, chain) for row in range(len(examples)) for gate in range(gates) for chain in range(chains)]
    for place in places:
        with lanes(LANES) as v:
            store(sums, tirx.const(0, dtype), *place, v)
    for row, gate, chain in places:
        if start is not None and chain == 0:
            with lanes(count) as v:
                store(sums, start(examples[row], gate, number * LANES + v), row, gate, 0, v)

    def add(k: Scalar, chain: int) -> None:
        for row, n in enumerate(examples):
            for gate in range(gates):
                with lanes(LANES) as v:
                    product = state(n, k) * weight[number, k, gate, v]
                    store(sums, sums[row, gate, chain, v] + product, row, gate, chain, v)

    with T.serial(0, width // chains) as several:
        for chain in range(chains):
            add(several * chains + chain, chain)
    for chain in range(width % chains):
        add(width // chains * chains + chain, chain)
    for row, gate, chain in places:
        if chain:
            with lanes(LANES) as v:
                store(sums, sums[row, gate, 0, v] + sums[row, gate, chain, v], row, gate, 0, v)
    return sums


def blocks(units: int, write: Callable[[Scalar, int], None]) -> None:
    """Whole blocks of units, and then the one with fewer of them."""
    from tvm.script.ir_builder import tirx as T

    if units >= LANES:
        with T.serial(0, units // LANES) as number:
            write(number, LANES)
    if units % LANES:
        write(units // LANES, units % LANES)


def lanes(count: int) -> Any:
    """A loop over units of a block, vectorized where the block is full."""
    from tvm.script.ir_builder import tirx as T

    return T.vectorized(0, count) if count == LANES else T.serial(0, count)


def store(buffer: Buffer, value: Scalar, *at: Scalar | int) -> None:
    """Write an element of a buffer."""
    from tvm.script.ir_builder import tirx as T

    T.buffer_store(buffer, value, list(at))
