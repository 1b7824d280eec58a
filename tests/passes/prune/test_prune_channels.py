"""Choosing channels: how many, of which, within which budget; and what is said about bad input."""

import numpy as np
import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.errors import BudgetError, OptionError, PassError, UsageError
from fxopt.ir.cost import cost
from fxopt.passes.prune.choice.chooser import Chooser, ratio_for
from fxopt.passes.prune.coupling.groups import Group

torch.manual_seed(0)


class Net(nn.Module):
    """Two convolutions of 24 and 40 channels, of which the first has six that are far weaker than the rest."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 40, 3), nn.Linear(40, 5)
        with torch.no_grad():
            self.first.weight[[1, 4, 9, 16, 20, 23]] *= 1e-3
            self.second.weight[:, [1, 4, 9, 16, 20, 23]] *= 1e-3

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def program():
    return capture(Net().eval(), (torch.randn(2, 3, 8, 8),))


def pruned(program, text):
    return Pipeline.parse(text).run(program).program


def widths(program):
    return tuple(program.tensors()[name].shape[0] for name in ("first.weight", "second.weight"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("ratio=0.5", (12, 20)),
        ("", (12, 20)),
        ("ratio=0.3, multiple=8", (24, 32)),  # 17 and 28 are kept, rounded up
        ("ratio=0.99, min_channels=3", (3, 3)),
        ("ratio=0.5, keep=('second',)", (12, 40)),
        ("ratio=0.5, keep=('*cond*',)", (12, 40)),
        ("ratio=0.5, only=('second.weight',)", (24, 20)),
        ("ratio=0.09, scope='global'", (19, 40)),  # 5 of all 64: the weak ones are in the first
        ("ratio=0.0", (24, 40)),
    ],
)
def test_how_many_of_which(program, options, expected):
    assert widths(pruned(program, f"prune_channels({options})")) == expected


def test_the_weak_ones_go(program):
    small = pruned(program, "prune_channels(ratio=0.25, by='l1', only=('first',))")
    strong = [i for i in range(24) if i not in (1, 4, 9, 16, 20, 23)]
    assert torch.equal(small.tensors()["first.weight"], program.tensors()["first.weight"][strong])


@pytest.mark.parametrize("budget", ["macs", "params"])
def test_a_share_and_a_number_are_the_same_budget_and_it_is_just_met(program, budget):
    dense = cost(program)
    total = dense.macs if budget == "macs" else dense.parameters
    by_share = pruned(program, f"prune_channels({budget}=0.4)")
    by_number = pruned(program, f"prune_channels({budget}={0.4 * total})")
    left = cost(by_share).macs if budget == "macs" else cost(by_share).parameters
    assert widths(by_share) == widths(by_number)
    assert 0.36 * total < left <= 0.4 * total


def test_a_budget_of_measured_latency(program):
    from fxopt.backend import find_backend

    backend = find_backend("eager")
    for all_of_it in ("1000ms", "1x"):
        wide = Pipeline.parse(f"prune_channels(latency='{all_of_it}')").run(program, backend=backend).program
        assert widths(wide) == (24, 40)
    for next_to_none, share in (("1e-6ms", r"\d"), ("1e-6x", "1e-06")):
        with pytest.raises(BudgetError, match=rf"latency comes down to 0\.\d+ of the whole .* the budget is {share}"):
            Pipeline.parse(f"zero_channels(latency='{next_to_none}')").run(program, backend=backend)
    with pytest.raises(UsageError, match="measured on a built model"):
        Pipeline.parse("zero_channels(latency='0.5x')").run(program)


@pytest.mark.parametrize("unclear", ["0.5", "3", "fast", "-1x", "3s", "x"])
def test_a_latency_without_a_unit_may_be_meant_as_either_and_is_refused(program, unclear):
    for name in ("prune_channels", "low_rank", "substitute"):
        with pytest.raises(OptionError, match=r"0\.5x"):
            Pipeline.parse(f"{name}(latency={unclear!r})").run(program)


def test_no_more_goes_than_a_share_of_the_latency_asks_for(program, monkeypatch):
    """With a clock that counts weights, slower by half in every other run, as a loaded machine is."""
    from itertools import cycle

    from fxopt.passes.common import latency_budget
    from fxopt.runtime.timing import Timing

    load = cycle((1.0, 1.5))

    def ms(model):
        return 0.1 + 1e-3 * sum(t.numel() for t in model.tensors().values())

    def clock(programs, context, who, **options):
        slower = next(load)
        return {name: Timing((slower * ms(it),) * 3) for name, it in programs.items()}

    monkeypatch.setattr(latency_budget, "built_times", clock)
    shares = [ms(pruned(program, f"prune_channels(latency='{limit}x')")) / ms(program) for limit in (0.9, 0.6, 0.3)]
    for limit, share in zip((0.9, 0.6, 0.3), shares, strict=True):
        assert limit - 0.06 < share <= limit


def test_a_budget_that_cannot_be_met_says_how_near_it_came_and_what_blocks(program):
    with pytest.raises(BudgetError) as error:
        pruned(program, "prune_channels(macs=0.0001)")
    text = str(error.value)
    assert "macs comes down to" in text
    assert "of the MACs left" in text
    assert "an output of the model" in text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ("ratio=1.0", OptionError, "< 1"),
        ("ratio=-0.1", OptionError, ">= 0"),
        ("ratio=0.5, macs=0.5", OptionError, "not both"),
        ("by='l3'", UsageError, "l1"),
        ("keep=('frist',)", OptionError, "first"),
        ("only=('nothing*',)", OptionError, "nothing"),
        ("min_channels=0", OptionError, ">= 1"),
        ("by='taylor'", PassError, "data"),
    ],
)
def test_bad_options(program, options, error, words):
    with pytest.raises(error, match=words):
        pruned(program, f"prune_channels({options})")


def test_weights_that_are_not_finite_are_named():
    net = Net().eval()
    with torch.no_grad():
        net.second.weight[3, 2] = float("nan")
    with pytest.raises(PassError, match=r"second\.weight"):
        pruned(capture(net, (torch.randn(2, 3, 8, 8),)), "prune_channels")


def test_nothing_to_prune_is_reported():
    program = capture(nn.Linear(4, 3).eval(), (torch.randn(2, 4),))
    outcome = Pipeline.parse("prune_channels").run(program)
    assert not any(step.changed for step in outcome.steps)
    assert any("3 of 3 channels stay: it is an output" in str(s) for s in outcome.steps[0].skips)
    with pytest.raises(BudgetError, match="no channel"):
        pruned(program, "prune_channels(macs=0.5)")


def test_an_op_without_a_rule_is_named_and_the_rest_is_pruned():
    @torch.library.custom_op("fxopt_tests::twist", mutates_args=())
    def twist(x: torch.Tensor) -> torch.Tensor:
        return x.flip(1) * 2

    twist.register_fake(torch.empty_like)

    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.c(self.b(torch.ops.fxopt_tests.twist(self.a(x))).relu())

    outcome = Pipeline.parse("prune_channels").run(capture(Strange().eval(), (torch.randn(2, 4),)))
    assert outcome.program.tensors()["b.weight"].shape == (3, 8)
    assert any(
        "twist has no coupling rule" in str(s) and "test_prune_channels.py" in str(s) for s in outcome.steps[0].skips
    )


class Attention(nn.Module):
    """Grouped-query attention: 8 query heads share 2 key and value heads of width 4."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(6, 32), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(32, 6)

    def forward(self, x):
        q = self.q(x).unflatten(-1, (8, 4)).transpose(1, 2)
        k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("units", "q", "kv"), [("heads", (32, 8), (4, 4)), ("head_dims", (16, 4), (4, 4))])
def test_units_of_attention(units, q, kv):
    program = capture(Attention().eval(), (torch.randn(2, 5, 6),))
    small = pruned(program, f"prune_channels(ratio=0.5, units=('{units}',))").tensors()
    sizes = small["q.weight"].shape[0], small["k.weight"].shape[0], small["v.weight"].shape[0]
    assert sizes[0] < 32
    assert sizes[0] % 4 == 0 or units == "head_dims"
    assert sizes[1] <= 8
    if units == "heads":
        assert sizes[1] == sizes[2] == 4, "a whole group of key and value goes"


def test_a_program_that_was_pruned_goes_on(tmp_path, program):
    import fxopt

    small = pruned(program, "prune_channels(ratio=0.4)")
    fxopt.save_program(small, tmp_path / "small.pt2")
    again = fxopt.load_program(tmp_path / "small.pt2")
    x = torch.randn(5, 3, 8, 8)  # another batch
    assert torch.equal(again(x), small(x))
    smaller = pruned(again, "prune_channels(ratio=0.5)")
    assert widths(smaller) == tuple((n + 1) // 2 for n in widths(small))


def test_zeroing_is_what_the_pruned_program_computes(program):
    """The oracle shares no code: the dense module with the same channels hooked to zero."""
    outcome = Pipeline.parse("prune_channels(ratio=0.5, by='l2')").run(program)
    small = outcome.program.tensors()["first.weight"]
    dense = program.tensors()["first.weight"]
    kept = [i for i in range(24) if (small == dense[i][None]).flatten(1).all(1).any()]
    assert len(kept) == 12
    net = Net().eval()
    net.load_state_dict(program.module.state_dict())
    second = outcome.program.tensors()["second.bias"]
    kept2 = [i for i in range(40) if (second == net.second.bias[i]).any()]
    mask1, mask2 = torch.zeros(24, 1, 1), torch.zeros(40, 1, 1)
    mask1[kept], mask2[kept2] = 1, 1
    net.first.register_forward_hook(lambda module, args, out: out * mask1)
    net.second.register_forward_hook(lambda module, args, out: out * mask2)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(outcome.program(x), net(x), rtol=1e-5, atol=1e-6)


def group(atoms):
    return Group("g", "channels", np.array(atoms), ())


def test_chooser_takes_the_least_of_all_as_far_as_each_group_may():
    scores = np.array([np.inf, 0.1, 0.2, 0.3, 5, 6, 7, 8])
    chooser = Chooser([group([1, 2, 3]), group([4, 5, 6, 7])], scores, "global", 2, 1)
    assert np.flatnonzero(chooser.dead(0.3)).tolist() == [1, 4]  # the first group keeps two
    assert np.flatnonzero(chooser.dead(1.0)).tolist() == [1, 4, 5]
    assert not chooser.dead(0.0).any()


def test_bisection_finds_the_least_ratio():
    assert ratio_for(lambda r: 100 * (1 - r), 40, steps=20)[0] == pytest.approx(0.6, abs=1e-5)
    assert ratio_for(lambda r: 100 - r, 40, steps=20) == (1.0, 99)


def test_groups_are_shown_with_their_weights_and_what_stays(program):
    from fxopt.passes.prune.coupling.groups_table import groups

    table = groups(program)
    assert [(row.unit, row.count, row.read_by) for row in table.rows] == [
        ("channels", 24, ("second.weight[1]",)),
        ("channels", 40, ("last.weight[1]",)),
    ]
    assert table.rows[0].made_by == ("first.weight[0]", "first.bias[0]")
    assert any("5 of 5 channels stay: it is an output of the model" in line for line in table.stays)
    assert "40 channels   second.weight[0]" in table.text()


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrized_weights_are_pruned_once_folded(norm):
    """A weight norm of zeros is 0 / 0, which is said before it is computed; folded, it is a weight like any other."""
    torch.manual_seed(0)
    net = nn.Sequential(norm(nn.Conv1d(4, 8, 3)), nn.ReLU(), norm(nn.Conv1d(8, 6, 3))).eval()
    program = capture(net, (torch.randn(2, 4, 9),))
    assert pruned(program, "fold_constants, prune_channels(ratio=0.5)").tensors()["0.bias"].shape == (4,)
    if norm is nn.utils.parametrizations.weight_norm:
        with pytest.raises(PassError, match="fold_constants"):
            pruned(program, "prune_channels(ratio=0.5)")


def test_layers_inside_of_a_graph_within_the_graph_are_named():
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)) for _ in range(2))

        def forward(self, x):
            return torch.cond(x.sum() > 0, self.one, self.other, (x,))

    step = Pipeline.parse("prune_channels(ratio=0.5)").run(capture(Either().eval(), (torch.randn(2, 4),))).steps[0]
    assert any("torch.cond" in skip.reason and "cond(" in skip.node for skip in step.skips)
