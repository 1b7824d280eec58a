"""Workloads and passes that go wrong, each in one way; loaded with ``--load``."""

import signal

import torch

from fxopt import Program, Workload, graph_pass
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


@graph_pass(kind="approx")
def interrupt(program: Program) -> None:
    """Press Ctrl-C in the middle of a build."""
    signal.raise_signal(signal.SIGINT)
