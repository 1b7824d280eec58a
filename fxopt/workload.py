"""A workload: what a model is for. Its factory, example inputs, data, loss and metric in one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fxopt.errors import DataError

if TYPE_CHECKING:
    import torch

Split = Literal["train", "validation", "test"]
Args = tuple[Any, ...]


class Data(Protocol):
    """What a workload knows beside its model. All tensors are on the CPU."""

    metric: str
    """Name of the metric, higher is better, in the unit of its range (for example ``top-1``, 0 to 1)."""

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``(args, target)`` of at most ``batch_size`` examples; shuffled (and augmented) by ``seed`` if given."""

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Scalar training loss of one batch."""

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """Metric of ``model`` over a split; the model is called with tensors and may answer with numpy arrays."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A named model with what is needed to capture, calibrate, train and judge it.

    ``model`` gives a module with its weights, ``inputs`` gives example ``(args, kwargs)``, and ``dynamic`` says
    which dims may vary, as in :func:`fxopt.capture`. ``data`` is None for a model without any.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    inputs: Callable[[], tuple[Args, dict[str, Any]]]
    dynamic: Any = "batch"
    data: Data | None = None

    def need_data(self, who: str) -> Data:
        """Return the data, or raise DataError in the name of ``who`` needs it."""
        if self.data is None:
            raise DataError(
                f"{who} needs data, and the workload {self.name!r} has none\n"
                "  give a workload with data (see `fxopt models`), or write one: README, 'Your own model'"
            )
        return self.data

    def calibration(self, count: int, who: str) -> Iterator[Args]:
        """Yield the arguments of batches that hold ``count`` training examples in all, always the same ones."""
        batch_size = min(32, count)
        seen = 0
        for args, _ in self.need_data(who).batches("train", batch_size=batch_size):
            yield args
            seen += batch_size
            if seen >= count:
                return
