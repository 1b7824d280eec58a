"""Types of the text form, and example values for inputs and weights of a type."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any

import torch

from fxopt.ir.parser_tokens import Position
from fxopt.ir.printer import DTYPES

DTYPE_NAMES: dict[str, torch.dtype] = {name: dtype for dtype, name in DTYPES.items()}
CONSTANTS: dict[str, Any] = {"int": 1, "float": 1.0, "bool": True, "str": "", "NoneType": None}
"""Example values of inputs that are no tensors."""

_TENSOR = re.compile(r"\s*([\w.]+)\[([^\]]*)\]")
_POSITIVE = re.compile(r"var|scale|std")


@dataclass(frozen=True)
class TensorType:
    """A dtype and sizes; a dynamic or derived size is a text."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{DTYPES.get(self.dtype, str(self.dtype))}[{','.join(map(str, self.shape))}]"

    def renamed(self, names: dict[str, str]) -> TensorType:
        """Return the same type with sizes renamed."""
        return TensorType(self.dtype, tuple(names.get(s, s) if isinstance(s, str) else s for s in self.shape))


def read_type(place: Position, start: int, *, several: bool = False) -> tuple[TensorType | str, int]:
    """Read a type at ``start``; return it and where it ends. Raises UsageError.

    A type of several values, ``(f32[2], f32[2])``, or with a derived size is returned as text if ``several`` allows it.
    """
    rest = place.text[start:]
    match = _TENSOR.match(rest)
    if match is None:
        word = rest.strip().split(" ")[0] if rest.strip() else ""
        if word in CONSTANTS or several:
            return word, len(place.text)
        raise place.error("a type such as f32[batch,3,8,8]", start)
    dtype = DTYPE_NAMES.get(match[1]) or getattr(torch, match[1].removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise place.error(f"a dtype, one of {', '.join(DTYPE_NAMES)}", start)
    sizes = [part.strip() for part in match[2].split(",")] if match[2].strip() else []
    shape: list[int | str] = []
    for part in sizes:
        if not part.isdecimal() and not part.isidentifier() and not several:
            raise place.error("sizes that are numbers or names, f32[batch,3,8,8]", start + match.start(2))
        shape.append(int(part) if part.isdecimal() else part)
    return TensorType(dtype, tuple(shape)), start + match.end()


def example_input(shape: list[int], dtype: torch.dtype, seed: int, name: str) -> torch.Tensor:
    """Values for an input: normal, or 0 and 1 for integers and booleans."""
    return _draw(shape, dtype, _generator(seed, f"input {name}"))


def example_weight(shape: list[int], dtype: torch.dtype, seed: int, name: str) -> torch.Tensor:
    """Values for a weight, from the seed and its name: spread 1 / sqrt(fan-in), positive for a variance."""
    generator = _generator(seed, f"weight {name}")
    leaf = name.rpartition(".")[2]
    if dtype.is_floating_point and _POSITIVE.search(leaf):
        return (torch.rand(shape, generator=generator) + 0.5).to(dtype)
    if dtype in (torch.int8, torch.uint8):
        info = torch.iinfo(dtype)
        if "zero_point" in leaf:
            return torch.zeros(shape, dtype=dtype)
        return torch.randint(info.min, info.max + 1, shape, dtype=dtype, generator=generator)
    drawn = _draw(shape, dtype, generator)
    return drawn / math.sqrt(math.prod(shape[1:]) or 1) if dtype.is_floating_point and len(shape) > 1 else drawn


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _draw(shape: list[int], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)
