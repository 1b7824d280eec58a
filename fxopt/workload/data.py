"""Datasets of others as data of a workload: of torch and torchvision, Hugging Face, WebDataset, or any iterable of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fxopt.errors import DataError, UnknownNameError, UsageError

if TYPE_CHECKING:
    import torch

    from fxopt.workload.workload import Args, Split

_BATCH = 64
"""Examples in a batch that a metric is computed over."""


def top_1(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Whether the largest score of each example [N, classes] is that of its label int64 [N]."""
    return output.argmax(1) == target


def from_torch(
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    inputs: Sequence[str] = (),
    target: str = "label",
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    metric: str = "top-1",
    score: Callable[[Any, Any], torch.Tensor] = top_1,
    collate: Callable[[list[Any]], Any] | None = None,
    workers: int = 0,
) -> TorchData:
    """Data of a workload (:class:`fxopt.Data`) from a dataset for each split; without ``test`` it is that of ``validation``.

    A dataset has examples by number (torch, torchvision, Hugging Face ``datasets``), or is an iterable of them, read from
    its start for each epoch (``IterableDataset``, WebDataset, streamed ``datasets``). An example is a tuple with the target
    last, or a dict, of which ``inputs`` name the model's arguments and ``target`` the target. Numbers, arrays and tensors
    are stacked as torch's ``DataLoader`` does, or by ``collate``; all stay on the CPU.

    ``loss(output, target)`` is cross entropy by default. The ``metric`` of this name is the mean over examples of
    ``score(output, target)``, a tensor [N], of which higher is better. ``workers`` processes read ahead: they pay where
    reading an example, as decoding an image, takes longer than its share of a training step, and not for tensors in memory.
    Where there is an accelerator, batches are in pinned memory, from which copies to it do not wait.

    Examples by number are shuffled by the seed of an epoch. An iterable shuffles itself; one with ``set_epoch`` is told the
    seed. Raises UsageError for a dataset that is none.
    """
    for name, found in (("train", train), ("validation", validation)):
        if not hasattr(found, "__iter__") and not hasattr(found, "__getitem__"):
            raise UsageError(
                f"from_torch: {name} has neither examples by number nor an iterator, it is a {type(found).__name__}",
                way_out="give a torch.utils.data.Dataset, or any iterable of (input, target)",
            )
    splits: dict[Split, Any] = {"train": train, "validation": validation, "test": validation if test is None else test}
    return TorchData(splits, tuple(inputs), target, loss, metric, score, collate, workers)


@dataclass(frozen=True)
class TorchData:
    """What :func:`from_torch` makes."""

    splits: dict[Split, Any]
    inputs: tuple[str, ...]
    target: str
    loss_function: Callable[[Any, Any], torch.Tensor] | None
    metric: str
    score: Callable[[Any, Any], torch.Tensor]
    collate: Callable[[list[Any]], Any] | None
    workers: int

    def example_count(self, split: Split) -> int | None:
        """Number of examples; None for an iterable, which is only counted by reading it."""
        dataset = self.splits[split]
        return len(dataset) if _by_number(dataset) else None

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``(args, target)``. Raises DataError for an example that is no tuple or lacks a field."""
        import torch
        from torch.utils.data import DataLoader, IterableDataset

        dataset = self.splits[split]
        by_number = _by_number(dataset)
        if not by_number and seed is not None and hasattr(dataset, "set_epoch"):
            dataset.set_epoch(seed)
        if not by_number and not isinstance(dataset, IterableDataset):
            dataset = _iterable(dataset)
        loader = DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=by_number and seed is not None,
            generator=torch.Generator().manual_seed(
                seed or 0
            ),  # with none it would draw from the caller's random numbers
            num_workers=self.workers,
            collate_fn=self.collate,
            pin_memory=torch.accelerator.is_available(),
        )
        for batch in loader:
            yield self._cut(batch)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Mean loss of a batch."""
        from torch.nn import functional as F

        return F.cross_entropy(output, target) if self.loss_function is None else self.loss_function(output, target)

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """The mean score over a split."""
        import torch
        from torch.utils import _pytree as pytree

        total, count = 0.0, 0
        for args, target in self.batches(split, batch_size=_BATCH):
            with torch.no_grad():
                scores = self.score(pytree.tree_map(torch.as_tensor, model(*args)), target)
            total, count = total + float(scores.double().sum()), count + len(scores)
        if not count:
            raise DataError(f"the {split} split holds no example")
        return total / count

    def _cut(self, batch: Any) -> tuple[Args, Any]:
        if isinstance(batch, dict):
            for name in (*self.inputs, self.target):
                if name not in batch:
                    raise UnknownNameError("field of an example", name, batch, hint="name them by inputs= and target=")
            if not self.inputs:
                raise DataError(
                    f"examples are dicts of {', '.join(batch)}",
                    way_out=f"name the model's arguments: inputs=({next(iter(batch))!r},)",
                )
            return tuple(batch[name] for name in self.inputs), batch[self.target]
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise DataError(
                f"an example is a tuple with the target last, or a dict; got a {type(batch).__name__}",
                way_out="let the dataset give (input, target)",
            )
        return tuple(batch[:-1]), batch[-1]


def _by_number(dataset: Any) -> bool:
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _iterable(examples: Iterable[Any]) -> Any:
    from torch.utils.data import IterableDataset

    class Examples(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(examples)

    return Examples()
