"""What a worker tries next, which rungs a recipe climbs, and that an interruption changes neither: with figures of a formula."""

import random
import time
from collections import Counter

import pytest

from fxopt.automl.apart import TrialRefused
from fxopt.automl.goals import Goals, Limit
from fxopt.automl.neighbours import neighbour
from fxopt.automl.read_space import read_space
from fxopt.automl.records import Record
from fxopt.automl.study import Study
from fxopt.automl.until import Until
from fxopt.automl.worker import Worker
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.support.machine_lock import held

BACKENDS = ("onnx", "openvino", "tvm")
SPACE = read_space({"passes": ["prune_channels", "low_rank", "distill", "quantize"]}, BACKENDS)
GOALS = Goals((Limit("metric_drop", 1.0),), ("metric_drop", "latency_ms", "file_bytes"))
ORIGINAL = {"metric_drop": 0.0, "latency_ms": 1.0, "file_bytes": 1.0, "macs": 1.0, "params": 1.0}
SHIPPED = (
    "prune_channels(macs=0.3, samples=1024)",
    "distill(epochs=20, temperature=2.0)",
    "fold_batch_norm",
    "clean_up",
)


class Formula:
    """In place of the evaluator's process: figures drawn by the recipe's text, seconds of each rung, and interruptions.

    Two passes, the exact ones, lose nothing and save nothing. All is twice as fast and small on openvino; tvm takes nothing.
    """

    def __init__(self, seconds=None, stop_after=None, epoch=0.0):
        self.calls, self._seconds, self._left, self._epoch = [], seconds or {}, stop_after, epoch

    def call(self, _, point, rung, **__):
        self.calls.append((point, rung.name))
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        if point.backend == "tvm" and rung.name == "speed":
            raise TrialRefused("not there")
        drawn, names = random.Random(str(point.passes)), ("metric_drop", "divergence", "latency_ms", "file_bytes")
        figures = {name: drawn.uniform(0.1, 1.0) for name in names} | {"macs": 1.0, "params": 1.0}
        if len(point.passes) == 2:
            figures |= {"metric_drop": 0.0, "divergence": 0.0, "latency_ms": 1.0, "file_bytes": 1.0}
        for name in ("latency_ms", "file_bytes"):
            figures[name] *= 0.5 if point.backend == "openvino" else 1.0
        answer = {"figures": figures, "seconds": self._seconds.get(rung.name, 1.0)}
        if rung.epochs:
            answer["epoch_seconds"] = self._epoch
        return answer | {"backend": point.backend, "kept": None, "held_out": None}


def run(folder, apart, until, presets=()):
    """Records in order, with the study's storage in ``folder``."""
    folder.mkdir(exist_ok=True)
    study = Study(f"sqlite:///{folder}/study.db", "formula", len(GOALS.objectives), folder)
    study.begin({}, lambda: {"figures": ORIGINAL})
    Worker(study, SPACE, GOALS, list(presets), apart, 0, folder).run(until, lambda _: None)
    return study.records()


def preset(passes, backend="onnx", name="shipped"):
    return Record(passes=passes, backend=backend, preset=name)


PRESETS = (preset(("fold_batch_norm", "clean_up"), name="exact"), preset(SHIPPED))


def test_presets_come_first_and_then_the_front_on_other_backends(tmp_path):
    apart = Formula()
    records = run(tmp_path / "a", apart, Until(trials=8), PRESETS)
    assert [r.point for r in records[:2]] == [p.point for p in PRESETS]
    moved = [(r.passes, r.backend, r.why) for r in records[2:6]]
    there = [("openvino", "done"), ("tvm", "refused")]
    assert set(moved) == {(p.passes, *pair) for p in PRESETS for pair in there}
    assert len(set(apart.calls)) == len(apart.calls), "nothing is run twice"


def test_what_is_worse_on_another_backend_is_not_built_to_its_end(tmp_path):
    """Its passes are those of one that is done, so training changes nothing about who is better."""
    records = run(tmp_path / "a", Formula(), Until(trials=2), [preset(SHIPPED, "openvino")])
    assert (records[1].passes, records[1].backend) == (SHIPPED, "onnx")
    assert records[1].why == "behind"
    assert "openvino" in records[1].reason
    assert list(records[1].spent) == ["size", "speed"]


def test_a_worker_interrupted_anywhere_goes_on_to_the_same_recipes(tmp_path):
    whole = run(tmp_path / "whole", Formula(), Until(trials=10), PRESETS)
    for moment in (3, 1, 7, 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", Formula(stop_after=moment), Until(trials=10), PRESETS)
    parts = run(tmp_path / "parts", Formula(), Until(trials=10), PRESETS)
    assert [(r.point, r.why) for r in parts] == [(r.point, r.why) for r in whole]


@pytest.mark.filterwarnings("ignore:Heartbeat")
def test_of_two_workers_that_queue_one_recipe_at_once_one_runs_it(tmp_path):
    study = Study(f"sqlite:///{tmp_path}/study.db", "formula", len(GOALS.objectives), tmp_path)
    for _ in range(2):
        study.enqueue(PRESETS[0], SPACE.parameters(PRESETS[0].point))
    apart, other = Formula(), tmp_path / "workers" / "other"
    with held(other):
        study.sign(study.inner.ask(), other)
        (record,) = run(tmp_path, apart, Until(trials=1), PRESETS)
    assert not apart.calls
    assert (record.number, record.why) == (1, "behind")
    assert "trial 0" in record.reason


def test_a_rung_that_costs_as_much_as_the_next_is_not_climbed(tmp_path):
    """All would go on from there. It is found out by climbing it once."""
    until = Until(trials=14)
    dear = Formula({"quality": 5.0, "train-1": 2.0})
    run(tmp_path / "dear", dear, until, PRESETS)
    assert sum(rung == "quality" for _, rung in dear.calls) == 1
    cheap = Formula({"quality": 1.0, "train-1": 2.0})
    run(tmp_path / "cheap", cheap, until, PRESETS)
    assert sum(rung == "quality" for _, rung in cheap.calls) > 1
    assert not any(rung == "quality" for point, rung in cheap.calls if point.passes == SHIPPED), (
        "a preset goes on anyway"
    )


def test_training_that_takes_a_large_part_of_the_time_is_not_begun(tmp_path):
    """Twenty epochs of 10 s each: not within 100 s, not for a recipe that was not asked for within 600 s.

    What a rung takes besides its epochs, such as proofs in the first, is not taken for them.
    """
    now, apart = time.monotonic(), Formula({"train-1": 90.0}, epoch=10.0)
    (asked,) = run(tmp_path / "short", apart, Until(now + 100, 1, 600.0), [preset(SHIPPED)])
    assert (asked.why, list(asked.spent)[-1]) == ("time", "train-9")
    assert "20 epochs" in asked.reason
    (asked,) = run(tmp_path / "long", apart, Until(now + 600, 1, 600.0), [preset(SHIPPED)])
    assert asked.why == "done"
    for name in (None, "won before"):
        (other,) = run(tmp_path / f"{name}", apart, Until(now + 600, 1, 600.0), [preset(SHIPPED, name=name)])
        assert (other.why, list(other.spent)[-1]) == ("time", "train-9")


def test_what_took_too_long_is_tried_again_when_there_is_more_time(tmp_path):
    now, apart = time.monotonic(), Formula(epoch=10.0)
    (first,) = run(tmp_path / "a", apart, Until(now + 100, 1, 100.0), [preset(SHIPPED)])
    assert first.why == "time"
    same = run(tmp_path / "a", apart, Until(now + 100, 1, 100.0), [preset(SHIPPED)])
    assert [r.why for r in same] == ["time"], "no more time than there was"
    _, again = run(tmp_path / "a", apart, Until(now + 900, 2, 900.0), [preset(SHIPPED)])
    assert (again.point, again.why, again.preset) == (first.point, "done", "shipped")


def test_a_neighbour_differs_in_one_to_three_choices_and_keeps_what_is_not_searched():
    parent, draw = Record(passes=SHIPPED, backend="onnx"), random.Random(0)
    parameters, fresh = SPACE.parameters(parent.point), 0
    changes = Counter()
    for _ in range(400):
        near = neighbour([parent], SPACE, draw)
        if near is None:
            fresh += 1
            continue
        assert set(near.parameters) == set(parameters)
        changed = {name for name, value in near.parameters.items() if value != parameters[name]}
        assert len(changed) <= 3
        changes.update(changed)
        assert all(SPACE.dimension(name).holds(near.parameters[name]) for name in changed)
        again = SPACE.around(near.passes).suggest(_Given(parameters))
        assert Pipeline.parse(again.passes) == Pipeline.parse(SHIPPED), "with nothing changed it is the recipe itself"
    assert set(changes) == set(parameters)
    assert 60 <= fresh <= 140
    assert neighbour([], SPACE, draw) is None


class _Given:
    def __init__(self, given):
        self.given = given

    def suggest_categorical(self, name, choices):
        return self.given[name]

    def suggest_float(self, name, low, high, *, log=False):
        return self.given[name]
