"""The contract of fxopt, and one case of its own."""

import torch
from fxopt_example.drop_double_neg import drop_double_neg
from fxopt_example.numpy_backend import Numpy

from fxopt import Pipeline, capture
from fxopt.testing import check_backend, check_pass


def test_pass_contract():
    check_pass(drop_double_neg)


def test_backend_contract():
    check_backend(Numpy)


class Negated(torch.nn.Module):
    def forward(self, x):
        return torch.neg(torch.neg(x))


def test_an_input_is_not_handed_out():
    outcome = Pipeline.of(drop_double_neg()).run(capture(Negated(), (torch.ones(2, 3),)))
    assert [skip.reason for skip in outcome.steps[0].skips] == [
        "the output would share the memory of an input or a weight"
    ]
