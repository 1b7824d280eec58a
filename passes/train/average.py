"""An exponential moving average of the weights over the steps of training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from fxopt.ir.transfer import put


class Average:
    """Of all floating parameters and buffers of a module: w̄ ← d · w̄ + (1 - d) · w (Polyak & Juditsky 1992, in moving form).

    In the first steps the decay is (1 + t) / (10 + t) where that is less, so that the start does not weigh on it.
    Without a ``decay`` the average is the weights themselves.
    """

    def __init__(self, module: torch.nn.Module, decay: float | None) -> None:
        self._decay, self._steps = decay, 0
        self._live = [t for t in module.state_dict(keep_vars=True).values() if t.is_floating_point()] if decay else []
        self._mean = [t.detach().clone() for t in self._live]

    def update(self) -> None:
        """Take the present weights into account."""
        if self._decay is None:
            return
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._mean, [t.detach() for t in self._live], 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the module, and the weights back afterwards."""
        before = [t.detach().clone() for t in self._live]
        self._write(self._mean)
        try:
            yield
        finally:
            self._write(before)

    def _write(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self._live, values, strict=True):
                tensor.copy_(value)

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"mean": self._mean, "steps": self._steps}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint."""
        mean: list[torch.Tensor] = list(state["mean"])  # type: ignore[call-overload]
        self._mean = [put(t, live.device) for t, live in zip(mean, self._live, strict=True)]
        self._steps = int(state["steps"])  # type: ignore[call-overload]
