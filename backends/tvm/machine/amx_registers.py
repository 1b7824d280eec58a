"""The eight tile registers of AMX: which hold accumulators, which inputs, and which weights."""

from __future__ import annotations

from dataclasses import dataclass

COUNT, ROWS, ROW = 8, 16, 64
"""Number of registers, rows of each, and bytes of a row."""


@dataclass(frozen=True)
class Registers:
    """``lines`` by ``down`` by ``across`` registers of accumulators, each of ``height`` positions; ``step`` bytes are multiplied.

    The others hold ``lines`` by ``down`` of positions and ``across`` of weights. Where these do not all fit, the fewer of
    them stay loaded for a step and the others are loaded in turn into the rest of the registers.
    """

    lines: int
    down: int
    across: int
    height: int
    step: int

    @property
    def fit(self) -> bool:
        """Whether there are enough registers."""
        return self._free > min(self._places, self.across)

    @property
    def weights_pass(self) -> bool:
        """Whether positions stay loaded for a step while weights are loaded in turn."""
        return self._places + self.across > self._free and self._places < self.across

    @property
    def sums(self) -> list[tuple[int, int, int, int]]:
        """The number of each register of accumulators, with its line, its index in the line, and its vector."""
        places = [(y, x, v) for y in range(self.lines) for x in range(self.down) for v in range(self.across)]
        return [(i, *place) for i, place in enumerate(places)]

    @property
    def positions(self) -> dict[tuple[int, int], int]:
        """The number of the register that a line and an index in it are loaded into."""
        places = [(y, x) for y in range(self.lines) for x in range(self.down)]
        return {place: self._first + i % self._held for i, place in enumerate(places)}

    @property
    def weights(self) -> dict[int, int]:
        """The number of the register that the weights of a vector are loaded into."""
        base = self._first + self._held
        return {v: base + v % (COUNT - base) for v in range(self.across)}

    @property
    def _places(self) -> int:
        return self.lines * self.down

    @property
    def _first(self) -> int:
        return self._places * self.across

    @property
    def _free(self) -> int:
        return COUNT - self._first

    @property
    def _held(self) -> int:
        """Registers for positions."""
        if self._places + self.across <= self._free or self.weights_pass:
            return self._places
        return self._free - self.across

    def configuration(self) -> list[int]:
        """The 64 bytes of LDTILECFG, as eight int64: palette 1, bytes of a row, rows."""
        widths, heights = [0] * COUNT, [0] * COUNT
        for number, *_ in self.sums:
            widths[number], heights[number] = ROW, self.height
        for number in self.positions.values():
            widths[number], heights[number] = self.step, self.height
        for number in self.weights.values():
            widths[number], heights[number] = ROW, self.step // 4
        rows = b"".join(width.to_bytes(2, "little") for width in widths)
        whole = bytes([1]) + bytes(15) + rows + bytes(16) + bytes(heights) + bytes(8)
        return [int.from_bytes(whole[8 * i : 8 * i + 8], "little", signed=True) for i in range(8)]
