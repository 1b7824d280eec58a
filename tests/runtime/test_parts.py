"""Batches above the bound of an artifact: run in parts where no example has a say in another's result."""

import numpy as np
import pytest
import torch
from cases.manifests import bare_manifest

from fxopt import capture
from fxopt.backend.manifest import TensorInput
from fxopt.numerics.independent_examples import has_independent_examples
from fxopt.runtime.parts import run_in_parts


def _manifest(*shapes, largest, splits=True):
    inputs = [
        TensorInput(name=f"x{i}", shape=list(shape), example=[2] * len(shape), dtype="float32")
        for i, shape in enumerate(shapes)
    ]
    return bare_manifest().model_copy(update={"inputs": inputs, "dims": {"batch": (1, largest)}, "splits": splits})


@pytest.mark.parametrize(("size", "parts"), [(1, [1]), (4, [4]), (5, [3, 2]), (9, [3, 3, 3]), (11, [4, 4, 3])])
def test_parts_are_of_nearly_one_size_and_go_together_again(size, parts):
    seen = []

    def run(arrays):
        seen.append(len(arrays[0]))
        return [arrays[0] * arrays[1].sum(), arrays[0][:, 0]]

    x, whole = np.arange(size * 3, dtype=np.float32).reshape(size, 3), np.arange(6, dtype=np.float32).reshape(2, 3)
    got = run_in_parts(run, [x, whole], _manifest(("batch", 3), (2, 3), largest=4))
    assert seen == parts
    np.testing.assert_array_equal(got[0], x * 15)
    np.testing.assert_array_equal(got[1], x[:, 0])


def test_what_may_not_be_split_is_run_whole():
    seen = []
    run_in_parts(
        lambda arrays: seen.append(len(arrays[0])) or arrays,
        [np.zeros((9, 3))],
        _manifest(("batch", 3), largest=4, splits=False),
    )
    assert seen == [9]


class _Of(torch.nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "independent"),
    [
        (lambda x: x.relu() + x.mean(1, keepdim=True), True),
        (lambda x: (x.sin(), x.sum(1)), True),
        (lambda x: x - x.mean(0), False),
        (lambda x: x.flip(0), False),
        (lambda x: x.sum(), False),
        (lambda x: (x, x.T.contiguous()), False),
    ],
)
def test_examples_are_independent_where_each_result_is_that_of_one(function, independent):
    program = capture(_Of(function), (torch.randn(3, 4),))
    assert has_independent_examples(program) == independent
