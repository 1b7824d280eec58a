"""An architecture search: its parts on a supernet made of numbers, and from end to end on a model that trains in a moment."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxopt
from fxopt import registry
from fxopt.automl.nas.asked import asked
from fxopt.automl.nas.cost_model import CostModel
from fxopt.automl.nas.evolve import Bounds, evolve
from fxopt.automl.nas.lines import Lines
from fxopt.automl.nas.report import NasReport
from fxopt.driver.load_file import load_file
from fxopt.errors import BudgetError, OptionError, UsageError

CASE = Path(__file__).parent.parent / "cases" / "stripes.py"


@pytest.fixture(scope="module", autouse=True)
def case(tmp_path_factory):
    with registry.restored(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FXOPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        load_file(CASE)
        yield


class Numbers:
    """Six widths of 1 to 8 and one branch; MACs are the product of neighbours."""

    names, layers = ("a", "b", "c", "d", "e", "f"), ("sum",)

    def canonical(self, widths, off):
        return tuple(widths), tuple(off)

    def costs(self, widths, off):
        pairs = itertools.pairwise(widths)
        return {"macs": float(sum(a * b for a, b in pairs)) * (0.5 if off else 1)}


def test_evolution_gets_better_than_random_and_keeps_above_the_least():
    """Of equal MACs, the divergence is least where all is in the first widths."""
    net, offered = Numbers(), (tuple(range(1, 9)),) * 6
    values = lambda s: (sum((8 - n) * 2.0**-i for i, n in enumerate(s[0])) + len(s[1]), np.log(net.costs(*s)["macs"]))  # noqa: E731
    whole = ((8,) * 6, ())
    tried = evolve(net, Bounds(offered, 40.0), [whole], values, 240, 0)
    assert tried[0] == whole
    assert all(net.costs(*s)["macs"] >= 40 - 1e-9 for s in tried)
    assert tried == evolve(net, Bounds(offered, 40.0), [whole], values, 240, 0), (
        "a search that goes on proposes the same"
    )
    random = np.random.default_rng(0)
    drawn = [(tuple(random.integers(1, 9, 6).tolist()), ()) for _ in range(len(tried))]

    def best(subnets):
        return min(values(s)[0] for s in subnets if net.costs(*s)["macs"] <= 120)

    assert best(tried) < best(drawn)


def test_latency_is_explained_by_kinds_of_layers():
    random = np.random.default_rng(0)
    true = {"convolutions": 2e-6, "products": 5e-6}
    seen = [{kind: float(random.integers(1e4, 1e6)) for kind in true} for _ in range(12)]
    ms = [0.3 + sum(true[k] * n for k, n in one.items()) for one in seen]
    model = CostModel(list(zip(seen[:10], ms[:10], strict=True)))
    assert model.error < 1e-6
    for one, wanted in zip(seen[10:], ms[10:], strict=True):
        assert model.predict(one) == pytest.approx(wanted, rel=1e-6)
    shares = model.shares(seen[0])
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["products"] == pytest.approx(true["products"] * seen[0]["products"] / ms[0], rel=1e-6)
    assert CostModel([(seen[0], 2.0), (seen[1], 4.0)]).predict(seen[2]) == pytest.approx(3.0)


def test_lines_outlive_a_kill(tmp_path):
    file = tmp_path / "lines"
    lines = Lines(file, "one")
    lines.add("a", [1, 2])
    Lines(file, "other").add("a", 9)
    with file.open("a") as torn:
        torn.write('\n["one", "b", [1')  # as a process that was killed leaves it
    again = Lines(file, "one")
    assert again.known == {"a": [1, 2]}
    again.add("b", 3)
    assert Lines(file, "one").known == {"a": [1, 2], "b": 3}


def test_what_is_asked_for(tmp_path):
    ask = asked(
        "stripes", tmp_path, targets=["host", "raspberry_pi_4"], limits={"latency": "0.5x"},
        behind=["distill(epochs=2)", "fold_batch_norm"],
    )  # fmt: skip
    here, there = ask.targets
    assert [str(limit) for limit in here.goals.limits] == ["latency_ms 0.5x"]
    assert [str(limit) for limit in there.goals.limits] == ["macs 0.5x"]
    assert there.goals.objectives == ("metric_drop", "macs")
    assert any("MACs take its place" in note for note in there.notes)
    estimated = asked(
        "stripes", tmp_path, targets=["raspberry_pi_4"], limits={"latency": "0.5x"}, backend="tvm"
    ).targets[0]
    assert [str(limit) for limit in estimated.goals.limits] == ["cycles 0.5x"]
    assert estimated.goals.objectives == ("metric_drop", "cycles")
    assert ask.quick == ("fold_batch_norm",), "what is timed is not trained"
    with pytest.raises(UsageError, match="latency cannot be limited"):
        asked("stripes", tmp_path, targets=["raspberry_pi_4"], limits={"latency": 2.0})
    with pytest.raises(OptionError, match="one target or more"):
        asked("stripes", tmp_path, targets=[])


def stiff() -> fxopt.Workload:
    """A model whose every channel is an output."""
    from cases.training import Blobs

    return fxopt.Workload(
        name="stiff", model=lambda: nn.Linear(6, 4), inputs=lambda: ((torch.zeros(2, 6),), {}), data=Blobs()
    )


def test_a_model_in_which_nothing_is_elastic(tmp_path):
    with (
        registry.overridden("workload", "stiff", stiff),
        pytest.raises(UsageError, match="nothing of stiff is elastic"),
    ):
        fxopt.nas("stiff", tmp_path / "out", epochs=1)


def options(**others):
    given = {"targets": ["host"], "epochs": 3, "rate": 5e-3, "trials": 12, "answers": 2, "load": (str(CASE),)}
    return {**given, **others}


@pytest.mark.slow
def test_a_search_from_end_to_end_and_again(tmp_path):
    out = tmp_path / "out"
    asks = options(targets=["host", "raspberry_pi_4"], limits={"latency": "1.5x", "drop": 0.5})
    report = fxopt.nas("stripes", out, **asks)
    here, there = report.targets
    assert NasReport.read(out) == report
    assert here.front
    assert there.front
    assert here.cost_error is not None
    assert there.cost_error is None
    for target in report.targets:
        for answer in target.front:
            assert answer.proof < 1e-9
            built = fxopt.build(out / target.name / answer.recipe, tmp_path / "built", measure=False)
            assert built.after.macs == answer.figures["macs"]
            assert built.after.file_bytes == answer.figures["file_bytes"]
    before = (out / "scores.jsonl").read_text(), (out / "host" / "measured.jsonl").read_text()
    again = fxopt.nas("stripes", out, **asks)
    assert before == ((out / "scores.jsonl").read_text(), (out / "host" / "measured.jsonl").read_text())
    assert [a.widths for a in again.targets[0].front] == [a.widths for a in here.front]
    assert json.loads((out / "nas.json").read_text())["schema_version"] == 1


@pytest.mark.slow
def test_limits_that_nothing_keeps(tmp_path):
    with pytest.raises(BudgetError, match="the smallest sub-network is over the limit of macs"):
        fxopt.nas("stripes", tmp_path / "a", **options(limits={"macs": "0.01x"}))
    with pytest.raises(BudgetError, match="the largest sub-network, the trained whole, lost more"):
        fxopt.nas("stripes", tmp_path / "b", **options(epochs=1, rate=3.0, limits={"drop": 0.01}))
