"""Every value that is left is compared, so that nothing behind a wrong cut can hide it."""

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.errors import VerifyError
from fxopt.pass_manager.pass_base import graph_pass
from fxopt.passes.prune.shrink import shrink


class Hidden(nn.Module):
    """A head of zeros, as untrained models have, and a layer scale of 1e-12 before it: the output shows nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.b.weight[:, [0, 3]] = 0

    def forward(self, x):
        return self.head(x + 1e-12 * self.b(self.a(x).tanh())) + 0.0 * x.sum()


@graph_pass(assumes_finite=True)
def shrink_wrongly(program):
    """Cut weights at the indices beside those that the claims say are kept."""
    before = program.tensors()
    shrink().run(program)
    wrong = {}
    for name, cuts in program.kept_indices.items():
        wrong[name] = before[name].detach()
        for dim, kept in cuts.items():
            wrong[name] = wrong[name].index_select(dim, ((kept + 1) % before[name].shape[dim]).sort().values)
    program.set_tensors(wrong)


def test_a_wrong_cut_behind_a_head_of_zeros_is_found_and_named():
    torch.manual_seed(0)
    program = capture(Hidden().eval(), (torch.randn(3, 4),))
    assert Pipeline.of(shrink()).run(program).steps[0].changed
    with pytest.raises(VerifyError, match=r"a value changed by(.|\n)*%linear = aten.linear\(.*test_value_map.py"):
        Pipeline.of(shrink_wrongly()).run(program)


def test_the_first_wrong_value_is_named():
    @graph_pass
    def halve_and_claim(program):
        """Claim that a value is what it was."""
        for node in program.find("aten.tanh"):
            program.replace(node, program.call(torch.ops.aten.relu.default, node.args[0], like=node))
        for node in program.graph.nodes:
            if node.op == "call_function":
                program.claims[node.name] = ("tanh" if "relu" in node.name else node.name, {})

    program = capture(Hidden().eval(), (torch.randn(3, 4),))
    with pytest.raises(VerifyError, match=r"the first one is\n +%relu\w* = aten.relu\(%linear\).*test_value_map.py"):
        Pipeline.of(halve_and_claim()).run(program)


class Overflows(nn.Module):
    """Finite on its example, not on inputs ten times as large; there 0 * inf is NaN, and gone after the cut."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(4, 6, bias=False), nn.Linear(6, 2)
        with torch.no_grad():
            self.head.weight[:, [1, 2, 4]] = 0

    def forward(self, x):
        return self.head(self.a(x).square().exp().exp())


def test_inputs_beyond_the_example_that_overflow_prove_nothing_and_refuse_nothing():
    torch.manual_seed(0)
    program = capture(Overflows().eval(), (torch.randn(8, 4),))
    step = Pipeline.of(shrink()).run(program).steps[0]
    assert step.changed
    assert step.findings.error < 1e-9


class Chaotic(nn.Module):
    """The logistic map, again and again, on sums whose order a cut changes: rounding ends up far above 1e-9."""

    def __init__(self, steps):
        super().__init__()
        self.a, self.head, self.steps = nn.Linear(64, 96), nn.Linear(3, 2), steps
        self.scale = nn.Parameter(torch.randn(3, 1, 96) * (torch.rand(96) < 0.5))

    def forward(self, x):
        y = (self.a(x).tanh() * self.scale).sum(-1).t().sigmoid()
        for _ in range(self.steps):
            y = 3.9 * y * (1 - y)
        return 1e-12 * self.head(y) + x.mean()


def test_a_model_that_amplifies_rounding_gets_room_for_it():
    torch.manual_seed(0)
    program = capture(Chaotic(36).eval(), (torch.randn(3, 64),))
    assert Pipeline.of(shrink()).run(program).steps[0].changed


def test_a_model_that_drowns_in_rounding_proves_nothing():
    torch.manual_seed(0)
    program = capture(Chaotic(90).eval(), (torch.randn(3, 64),))
    with pytest.raises(VerifyError, match="a value changed by"):
        Pipeline.of(shrink()).run(program)


class Drawing(nn.Module):
    """An autoencoder that draws its code, and a value that is not written yet."""

    def __init__(self):
        super().__init__()
        self.a, self.mean, self.spread, self.b = (nn.Linear(*sizes) for sizes in ((6, 16), (16, 4), (16, 4), (4, 6)))

    def forward(self, x):
        h = self.a(x).relu()
        mean = self.mean(h)
        code = mean + torch.randn_like(mean) * self.spread(h).exp()
        return self.b(torch.empty_like(code).fill_(2.0) * code)


@pytest.mark.filterwarnings("ignore::fxopt.CaptureWarning")
def test_draws_are_the_same_in_both_programs_and_memory_that_is_not_written_is_not_compared():
    torch.manual_seed(0)
    program = capture(Drawing().eval(), (torch.randn(3, 6),))
    state = torch.random.get_rng_state()
    *_, step = Pipeline.parse("prune_channels(ratio=0.5)").run(program).steps
    assert step.changed
    assert step.findings.error < 1e-9
    assert torch.equal(torch.random.get_rng_state(), state)
