"""Inputs and outputs of a block as data to train and refit on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fxopt.ir.program import Program
from fxopt.ir.trainable_module import Watching
from fxopt.pass_manager.block_entry import Samples
from fxopt.workload import Args, Split, Workload
from fxopt.workload.batching import fixed_batch, in_batches

_HELD_OUT = 5
"""One example in so many is held out of training."""


@dataclass(frozen=True)
class SampleData:
    """Batches of samples: the block's output is the target, so that no labels are needed; a fifth is for validation."""

    samples: Samples
    metric = "closeness"

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``((read,), given)``, in another order for each ``seed``."""
        count = len(self.samples.read)
        held = max(1, count // _HELD_OUT) if count > 1 else 0
        chosen = torch.arange(count - held) if split == "train" else torch.arange(count - held, count)
        if seed is not None:
            chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
        for some in chosen.split(batch_size):
            yield (self.samples.read[some],), self.samples.given[some]

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Squared error over the variance of all outputs of the block: mean((s - t)²) / var(t)."""
        return (output - target).square().mean() / self._variance

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """1 / (1 + the error), 0 to 1."""
        return 1 / (1 + self.error(model, split))

    def error(self, model: Callable[..., Any], split: Split = "validation") -> float:
        """The mean loss over a split."""
        losses, held = 0.0, 0
        for args, target in self.batches(split, batch_size=64):
            losses += float(self.loss(model(*args), target)) * len(target)
            held += len(target)
        return losses / max(1, held)

    @functools.cached_property
    def _variance(self) -> torch.Tensor:
        return self.samples.given.var(correction=0).clamp_min(1e-12)


def values_on(block: Program, name: str, read: torch.Tensor) -> torch.Tensor:
    """The value of a node of a block for samples, in batches of the size that the block takes."""
    watching = Watching(block.module, (name,))

    def value(rows: torch.Tensor) -> torch.Tensor:
        watching.run(rows)
        return watching.seen[name]

    with torch.no_grad():
        found: torch.Tensor = in_batches(value, fixed_batch(block))(read)
    return found


def sample_workload(block: Program, samples: Samples) -> Workload:
    """A workload of a block's program with its samples."""
    return Workload(
        name="block",
        model=lambda: block.module,
        inputs=lambda: (block.args, block.kwargs),
        data=SampleData(samples),
        program=block.copy,
    )
