"""The numbers of a weight in float32 or less, with float64 ones for as long as they are used.

The float64 tensors made last are kept, up to 64 MB of them: small models widen each weight once.
"""

from __future__ import annotations

import collections
import weakref

import torch

WIDE = {
    torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128, torch.complex32: torch.complex128,
}  # fmt: skip
"""The float64 dtype that holds every number of a dtype."""

KEPT_BYTES = 2**26
"""Of float64 tensors that are kept."""


class Held:
    """The numbers of a weight: narrow, wide for a while, or wide for good, once it is or may be written into."""

    def __init__(
        self,
        narrow: torch.Tensor | None,
        *,
        fresh: bool,
        wide: torch.Tensor | None = None,
        lent: list[torch.Tensor] | None = None,
    ) -> None:
        self.narrow = narrow
        self.fresh = fresh
        """Whether it is a result that no program has yet, so that it may be written into."""
        self.lent = [] if lent is None else lent
        """Float64 tensors for good, of this weight and of views of it, that are no result."""
        self._wide = wide

    def wide(self) -> torch.Tensor:
        """The float64 tensor; it is kept as long as it is among those made last."""
        if self._wide is not None:
            RECENT.touch(self)
            return self._wide
        assert self.narrow is not None
        self._wide = made = _cast(self.narrow)
        RECENT.add(self, made.untyped_storage().nbytes())
        return made

    def keep(self, wide: torch.Tensor) -> None:
        """Keep a float64 tensor for good. A result is no longer narrow then; of a weight, ``writes`` are counted."""
        if self.fresh:
            self.narrow = None
        elif all(tensor is not wide for tensor in self.lent):
            self.lent.append(wide)
        self._wide = wide
        RECENT.drop(self)

    def forget(self) -> None:
        """Drop the float64 tensor, which can be made again."""
        self._wide = None

    @property
    def writes(self) -> int:
        """How often the weight, or a view of it, was written into."""
        return sum(tensor._version for tensor in self.lent)


def _cast(narrow: torch.Tensor) -> torch.Tensor:
    """The float64 tensor of a narrower one; what is repeated without memory, as by ``expand``, stays so."""
    once = narrow
    for dim, (size, stride) in enumerate(zip(narrow.shape, narrow.stride(), strict=True)):
        once = once.narrow(dim, 0, 1) if stride == 0 and size > 1 else once
    return once.to(WIDE[narrow.dtype]).expand(narrow.shape)


class _Recent:
    """The float64 tensors made last; they do not live longer than their weights."""

    def __init__(self) -> None:
        self._sizes: collections.OrderedDict[weakref.ref[Held], int] = collections.OrderedDict()
        self._total = 0

    def add(self, held: Held, size: int) -> None:
        self._sizes[weakref.ref(held, self._drop)] = size
        self._total += size
        while self._total > KEPT_BYTES:
            oldest = next(iter(self._sizes))
            self._drop(oldest)
            if (forgotten := oldest()) is not None:
                forgotten.forget()

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, held: Held) -> bool:
        return weakref.ref(held) in self._sizes

    def touch(self, held: Held) -> None:
        if (key := weakref.ref(held)) in self._sizes:
            self._sizes.move_to_end(key)

    def drop(self, held: Held) -> None:
        self._drop(weakref.ref(held))

    def _drop(self, key: weakref.ref[Held]) -> None:
        self._total -= self._sizes.pop(key, 0)


RECENT = _Recent()
