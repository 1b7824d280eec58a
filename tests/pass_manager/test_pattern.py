"""Pattern rewrites: two plain functions make a pass that is verified like any other."""

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture, rewrite_pass
from fxopt.errors import UsageError, VerifyError

aten = torch.ops.aten


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.out = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.relu(torch.relu(self.fc(x)))
        inner = torch.relu(self.out(y))
        return torch.relu(inner), inner  # the inner relu is used elsewhere too


@pytest.fixture
def program():
    return capture(Net(), (torch.randn(2, 4),))


def _relus(program):
    return len(list(program.find("aten.relu")))


def test_a_pattern_in_plain_torch(program):
    merge = rewrite_pass(
        "merge_relu", lambda x: torch.relu(torch.relu(x)), torch.relu, inputs=(torch.randn(2, 3),), doc="Merge."
    )
    outcome = Pipeline.of(merge()).run(program)
    assert _relus(program) == 4
    assert _relus(outcome.program) == 3, "the pair whose inner value is an output must stay"
    first = next(iter(outcome.program.find("aten.relu")))
    assert "test_pattern.py" in outcome.program.describe(first), "the user's line survives"
    x = torch.randn(5, 4)
    assert torch.equal(outcome.program(x)[0], program(x)[0])


def test_a_pattern_in_aten_calls_with_default_arguments(program):
    swap = rewrite_pass(
        "spell_linear",
        lambda x, w, b: aten.relu(aten.linear(x, w, b)),
        lambda x, w, b: aten.relu(aten.add.Tensor(aten.linear(x, w), b)),
    )
    outcome = Pipeline.of(swap()).run(program)
    assert len(list(outcome.program.find("aten.add"))) == 2
    assert outcome.steps[0].changed


def test_check_declines_with_a_reason_and_sees_weights(program):
    def check(match):
        return "its bias is small" if match.tensor("b").abs().max() < 100 else None

    swap = rewrite_pass(
        "decline", lambda x, w, b: aten.linear(x, w, b), lambda x, w, b: aten.linear(x, w, b), check=check
    )
    outcome = Pipeline.of(swap()).run(program)
    assert not outcome.steps[0].changed
    assert [skip.reason for skip in outcome.steps[0].skips] == ["its bias is small"] * 2
    assert "aten.linear" in outcome.steps[0].skips[0].node


def test_a_number_matches_only_itself():
    class Scaled(nn.Module):
        def forward(self, x):
            return x * 2 + x * 3

    program = capture(Scaled(), (torch.randn(2, 4),))
    double = rewrite_pass("double", lambda x: aten.mul.Tensor(x, 2), lambda x: aten.add.Tensor(x, x))
    outcome = Pipeline.of(double()).run(program)
    assert len(list(outcome.program.find("aten.mul"))) == 1


def test_a_wrong_rewrite_is_caught(program):
    wrong = rewrite_pass("wrong", lambda x: aten.relu(x), lambda x: aten.gelu(x))
    with pytest.raises(VerifyError, match="changed by"):
        Pipeline.of(wrong()).run(program)


def test_it_is_a_pass_like_any_other(program):
    merge = rewrite_pass("merge_relu", lambda x: aten.relu(aten.relu(x)), lambda x: aten.relu(x), doc="Merge two.")
    assert str(merge()) == "merge_relu"
    assert merge() == merge()
    assert merge.__module__ == __name__
    assert merge.__doc__ == "Merge two."


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (lambda x: torch.relu(x), lambda x: x, "inputs="),
        (lambda x, y: aten.relu(x), lambda x, y: x, "does not use"),
        (lambda x: aten.relu(x), lambda x, y: aten.add.Tensor(x, y), "different number"),
        (lambda x: aten.relu(x) if x.sum() > 0 else x, lambda x: x, "cannot be traced"),
    ],
)
def test_functions_that_make_no_rewrite(pattern, replacement, words):
    with pytest.raises(UsageError, match=words):
        rewrite_pass("bad", pattern, replacement)
