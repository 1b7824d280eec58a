"""Workloads and passes that go wrong, each in one way, and some that must not; loaded with ``--load``."""

import signal
from dataclasses import dataclass
from typing import ClassVar

import torch

from fxopt import Program, Workload, graph_pass
from fxopt.backends.eager import Eager
from fxopt.models.digits import digits


class _Data:
    metric = "top-1"

    def __init__(self, *batches):
        self._batches = batches

    def batches(self, split, *, batch_size, seed=None):
        yield from ((batch, torch.zeros(len(batch[0]), dtype=torch.int64)) for batch in self._batches)

    def loss(self, output, target):
        return output.sum()

    def evaluate(self, model, split="test"):
        return 0.5


def _with(data) -> Workload:
    good = digits()
    return Workload(name="bad", model=good.model, inputs=good.inputs, data=data)


def no_data() -> Workload:
    """Digits without data."""
    return _with(None)


def nan_data() -> Workload:
    """Digits with a NaN in the calibration images."""
    images = torch.randn(8, 1, 8, 8)
    images[3, 0, 2, 2] = float("nan")
    return _with(_Data((images,)))


def wrong_shape() -> Workload:
    """Digits with calibration images of another size."""
    return _with(_Data((torch.randn(8, 3, 8, 8),)))


def empty_data() -> Workload:
    """Digits with no calibration image at all."""
    return _with(_Data())


class _Text(torch.nn.Module):
    def forward(self, x):
        return {"scores": x + 1, "name": "text"}


def text_output() -> Workload:
    """A model that returns a string beside a tensor."""
    return Workload(name="text_output", model=_Text, inputs=lambda: ((torch.randn(1, 4),), {}))


def text_free() -> Workload:
    """A small model that is all right."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    return Workload(name="small", model=lambda: model, inputs=lambda: ((torch.ones(1, 4),), {}))


def fifty_at_a_time() -> Workload:
    """Digits, captured for a batch of 50."""
    good = digits()
    images = torch.randn(50, 1, 8, 8)
    return Workload(name="fixed", model=good.model, inputs=lambda: ((images,), {}), data=good.data, dynamic=None)


MODULE = torch.nn.Linear(4, 2)


def fails() -> Workload:
    """A factory that fails."""
    return 1 / 0


def fails_later() -> Workload:
    """A workload whose model fails."""
    return Workload(name="bad", model=lambda: 1 / 0, inputs=lambda: ((torch.ones(1, 4),), {}))


def crashes() -> Workload:
    """Data that fail in a way nobody foresaw."""

    class Data(_Data):
        def evaluate(self, model, split="test"):
            raise ArithmeticError("unforeseen")

    return _with(Data((torch.randn(8, 1, 8, 8),)))


@dataclass(frozen=True)
class Wrong(Eager):
    """Eager, but every output is a little off."""

    name: ClassVar[str] = "wrong"

    def load(self, folder, manifest):
        run = super().load(folder, manifest)
        return lambda arrays: [out * 1.01 for out in run(arrays)]


@graph_pass(kind="approx")
def terminate(program: Program) -> None:
    """Ask the process to end in the middle of a build."""
    signal.raise_signal(signal.SIGTERM)


@graph_pass(kind="approx")
def interrupt(program: Program) -> None:
    """Press Ctrl-C in the middle of a build."""
    signal.raise_signal(signal.SIGINT)
