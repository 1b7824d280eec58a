"""Which layer hurts, by name; and as few of them in float as the budget asks for."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.backend import find_backend
from fxopt.backend.quant_policy import Policy
from fxopt.pass_manager.context import Context
from fxopt.passes.quant.decide import Placer, calibrated
from fxopt.passes.quant.mixed import choose
from fxopt.passes.quant.mixed.choose import QuantBudget, cheapest, left_in_float
from fxopt.passes.quant.mixed.quant import quant
from fxopt.passes.quant.mixed.sensitivity import LayerSensitivity, alone
from fxopt.passes.quant.mixed.trials import Trials
from fxopt.passes.quant.refine.analytic_bias import MeanInputs
from fxopt.target import find_target
from fxopt.testing import small_workload

pytestmark = pytest.mark.usefixtures("one_thread")


class OneBad(nn.Module):
    """Six layers; what the fourth reads has one channel a hundred times as large as the others, to no end."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(6)])
        with torch.no_grad():
            self.layers[2].weight[3] *= 100
            self.layers[3].weight[:, 3] /= 1000

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(x) if layer is not self.layers[3] else x
            x = layer(x)
        return x


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return capture(OneBad().eval(), (torch.randn(8, 8),))


@pytest.fixture(scope="module")
def workload(program):
    return small_workload(program)


@pytest.fixture(scope="module")
def trials(program, workload):
    return trials_of(program, workload, "none")


def trials_of(program, workload, correct_bias):
    placer = Placer(Policy())
    placement = placer(program)
    means = MeanInputs(program, placement.layers)
    ranges = calibrated(program, workload, placement, placer.policy, images=64, who="a test", also=means.watching())
    codes = {node.name: code for node, code in ranges.items()}
    return Trials(program, Context(workload), placer, codes, "a test", means if correct_bias == "analytic" else None)


def decibels(program, workload, model):
    """By the definition, on the validation batch."""
    args, _ = next(iter(workload.data.batches("validation", batch_size=32)))
    want, got = program(*args).double().numpy(), model(*args).double().numpy()
    return 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum())


@pytest.mark.slow
def test_the_bad_layer_comes_first_by_name_and_line(program, workload):
    found = quant(program, Context(workload))
    first = found.layers[0]
    assert first.module == "layers.2", "the value with the large channel is what it gives"
    assert "test_mixed.py" in first.source
    assert first.alone_db < found.layers[1].alone_db - 10
    best = found.remedies[0]
    assert {row.layer: row.module for row in found.layers}[best.layer] == "layers.3", (
        "leaving its reader in float is what helps"
    )
    assert best.after_db > best.before_db + 5
    assert all(other.after_db < best.before_db + 5 for other in found.remedies[1:])
    here = {"watchers": (), "workload": workload, "target": find_target("host"), "backend": find_backend("eager")}
    whole = Pipeline.parse("quantize").run(program, **here).program
    assert best.before_db == pytest.approx(decibels(program, workload, whole), abs=1.5)  # other examples
    without = Pipeline.parse(best.option).run(program, **here).program
    assert best.after_db == pytest.approx(decibels(program, workload, without), abs=1.5)


@pytest.mark.slow
def test_the_least_bad_layers_of_the_debugger_are_those_that_cost_least_when_quantized_alone(program, workload, trials):
    by_error = {row.module: row.alone_db for row in quant(program, Context(workload)).layers}
    worst = min(alone(trials), key=lambda row: row.alone_db)
    reader_of_the_worst = f"layers.{int(min(by_error, key=by_error.get)[-1]) + 1}"
    assert worst.layer == reader_of_the_worst


@pytest.mark.parametrize("correct_bias", ["none", "analytic"])
def test_alone_means_that_everything_else_is_float(program, workload, correct_bias):
    for row in alone(trials_of(program, workload, correct_bias)):
        others = tuple(f"layers.{i}" for i in range(6) if f"layers.{i}" != row.layer)
        model = (
            Pipeline.parse(f"insert_qdq(correct_bias={correct_bias!r}, keep_float={others!r})")
            .run(program, watchers=(), workload=workload, target=find_target("x86_64_vnni"))
            .program
        )
        assert decibels(program, workload, model) == pytest.approx(row.alone_db, abs=0.01)


def test_greedy_leaves_no_more_than_it_takes(program, trials):
    rows = alone(trials)
    whole = trials.sqnr(trials.quantized(frozenset()))
    for budget in (whole - 1, whole + 1, whole + 12, 200.0):
        left = left_in_float(QuantBudget(None, budget), trials, "greedy", "a test")
        assert trials.sqnr(trials.quantized(left)) >= budget
        assert left == {row.node for row in rows[: len(left)]}
        if left:
            fewer = frozenset(row.node for row in rows[: len(left) - 1])
            assert trials.sqnr(trials.quantized(fewer)) < budget
    assert left == set(trials.layers), "200 dB is float alone"


def test_a_knapsack_is_the_best_of_all_subsets(monkeypatch, trials):
    random = np.random.default_rng(0)
    rows = [LayerSensitivity(f"n{i}", "", float(db)) for i, db in enumerate(random.uniform(20, 40, 9))]
    cost = {frozenset([row.node]): 1 + float(c) for row, c in zip(rows, random.uniform(0.01, 0.1, 9), strict=True)}
    noise = {row.node: 10 ** (-row.alone_db / 10) for row in rows}
    monkeypatch.setattr(choose, "slowdowns", lambda *_: cost)
    monkeypatch.setattr(Trials, "quantized", lambda self, left: None)
    total = sum(noise.values())
    for limit in (total / 2.0, total / 3, total / 9):

        def holds(left, limit=limit):
            return sum(n for name, n in noise.items() if name not in left) <= limit

        left = cheapest(rows, trials, holds, "a test")
        assert holds(left)
        subsets = [set(s) for k in range(10) for s in itertools.combinations(noise, k)]
        price = lambda s: sum(cost[frozenset([n])] - 1 for n in s)  # noqa: E731
        tightened = total / 2 ** np.ceil(np.log2(total / limit) - 1e-9)  # the limit that the search comes to
        assert price(left) == pytest.approx(
            min(price(s) for s in subsets if sum(noise[n] for n in noise.keys() - s) <= tightened), rel=1e-3
        )


@pytest.mark.parametrize("leave", ["greedy", "knapsack"])
def test_quantize_holds_its_budget_and_names_what_it_left(program, workload, leave):
    from fxopt.backends.onnx import Onnx

    whole = Pipeline.parse("quantize").run(program, watchers=(), workload=workload).program
    budget = decibels(program, workload, whole) + 8
    passes = Pipeline.parse(f"quantize(sqnr_db={budget}, leave={leave!r})")
    outcome = passes.run(program, watchers=(), backend=Onnx(), workload=workload)
    assert decibels(program, workload, outcome.program) >= budget
    left = [skip for skip in outcome.steps[-1].skips if "left in float, so that the budget" in skip.reason]
    assert len(left) == 1
    assert "layers_3_weight" in left[0].node


def test_a_budget_that_holds_anyway_leaves_nothing(program, workload):
    outcome = Pipeline.parse("quantize(metric_drop=0.5)").run(program, watchers=(), workload=workload)
    assert not any("left in float" in skip.reason for skip in outcome.steps[-1].skips)
