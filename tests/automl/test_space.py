"""The space: what passes and types say, what a recipe makes of it, and points that read back."""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt, Le
from hypothesis import given, settings
from hypothesis import strategies as st

import fxopt
from fxopt import registry
from fxopt.automl.dimensions import Dimension, dimensions_of
from fxopt.automl.read_space import read_space
from fxopt.automl.rungs import ladder
from fxopt.automl.space import LOSSY, STAGES, Point
from fxopt.errors import OptionError, UnknownNameError, UsageError
from fxopt.pass_manager.pipeline import Pipeline

SPACE = read_space({}, ("onnx", "openvino"))


class Drawn:
    """A trial that hypothesis answers for."""

    def __init__(self, data):
        self.data, self.params = data, {}

    def suggest_categorical(self, name, choices):
        return self._kept(name, self.data.draw(st.sampled_from(choices), label=name))

    def suggest_float(self, name, low, high, *, log=False):
        return self._kept(name, self.data.draw(st.floats(low, high), label=name))

    def _kept(self, name, value):
        assert name not in self.params, f"{name} is asked for twice"
        self.params[name] = value
        return value


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_point_is_a_recipe_and_its_parameters_give_it_again(data):
    trial = Drawn(data)
    point = SPACE.suggest(trial)
    passes = Pipeline.parse(point.passes).passes
    assert tuple(map(str, passes)) == point.passes
    back = SPACE.parameters(point)
    assert set(back) == set(trial.params)
    assert SPACE.suggest(_Given(back)) == point


@given(st.data(), st.floats(0.05, 0.99))
@settings(max_examples=80, deadline=None)
def test_shares_of_the_macs_are_lowered_to_a_limit_and_no_further(data, limit):
    """In product; by one power; what a pass is asked for otherwise, and all other options, stay."""
    trial = Drawn(data)
    point = SPACE.suggest(trial, {"macs": limit})
    free = SPACE.suggest(_Given(trial.params))
    assert SPACE.suggest(_Given(SPACE.parameters(point)), {"macs": limit}) == point
    before, after = (Pipeline.parse(p.passes).passes for p in (free, point))
    assert [p.name for p in before] == [p.name for p in after]
    lossy = [(a, b) for a, b in zip(before, after, strict=True) if (s := SPACE.find(a.name)) and s.stage in LOSSY]
    for a, b in zip(before, after, strict=True):
        assert {**a.options(), "macs": 0} == {**b.options(), "macs": 0}
    if not lossy or any(a.macs is None for a, _ in lossy) or math.prod(a.macs for a, _ in lossy) <= limit:
        assert point == free
        return
    lows = {a.name: next(d.low for d in SPACE.find(a.name).dimensions if d.name == "macs") for a, _ in lossy}
    product = math.prod(b.macs for _, b in lossy)
    if any(b.macs > lows[b.name] for _, b in lossy):
        assert limit * 0.97 <= product <= limit
    assert all(lows[b.name] <= b.macs <= a.macs for a, b in lossy)


class _Given:
    def __init__(self, values):
        self.values = values

    def suggest_categorical(self, name, choices):
        assert self.values[name] in choices
        return self.values[name]

    def suggest_float(self, name, low, high, *, log=False):
        return self.values[name]


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_stages_stand_in_order_and_training_only_behind_what_loses(data):
    trial = Drawn(data)
    point = SPACE.suggest(trial)
    stages = [SPACE.find(p.name).stage for p in Pipeline.parse(point.passes).passes]
    swapped = ["width" if s == "rank" else "rank" if s == "width" else s for s in stages]
    assert sorted(stages, key=STAGES.index) == (swapped if trial.params.get("rank_first") else stages)
    assert "recover" not in stages or set(stages) & set(LOSSY)
    assert all(stages.count(s) == 1 for s in stages if s != "exact")


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_the_last_rung_is_the_recipe_and_none_trains_more(data):
    point = SPACE.suggest(Drawn(data))
    rungs = ladder(point, SPACE)
    assert rungs[-1].passes == point.passes
    assert len({rung.name for rung in rungs}) == len(rungs)
    epochs = [sum(getattr(p, "epochs", 0) for p in Pipeline.parse(rung.passes).passes) for rung in rungs]
    assert epochs[0] == 0
    assert max(epochs) == epochs[-1]
    assert all(rung.compares == (rung.name not in ("size", "speed", "final")) for rung in rungs)


def test_training_goes_on_from_the_rung_below():
    point = Point(("prune_channels(macs=0.5)", "finetune(epochs=20)", "train_quantized(epochs=2)"), "onnx")
    trained = [rung.passes for rung in ladder(point, SPACE) if rung.name.startswith("train-")]
    assert [passes[1:-1] for passes in trained] == [
        ("finetune(epochs=1)",),
        ("finetune(epochs=1)", "finetune(epochs=2, seed=1)"),
        ("finetune(epochs=1)", "finetune(epochs=2, seed=1)", "finetune(epochs=6, seed=2)"),
    ]
    quantized = [passes[-1] for passes in trained]
    assert quantized == ["train_quantized(epochs=1)", *2 * ["train_quantized(epochs=2)"]], "in one part"


@pytest.mark.parametrize("name", [n for n in registry.names("pass") if registry.get("pass", n).stage])
def test_every_pass_that_is_searched_can_be_made_at_all_its_ends(name):
    found = SPACE.find(name)
    assert all(isinstance(p, found.cls) for p in found.points())


def _pass(**annotations):
    names = {**annotations, "name": ClassVar[str], "stage": ClassVar[str]}
    body = {"__annotations__": names, "name": "made", "stage": "width"}
    defaults = {"few": 0.5, "form": "a", "on": False, "keep": (), "count": 3}
    body |= {key: defaults[key] for key in annotations}
    return dataclasses.dataclass(frozen=True)(type("made", (fxopt.Pass,), body))


def test_types_give_what_they_can_and_tune_takes_over():
    plain = _pass(
        few=Annotated[float, Gt(0), Le(1)],
        form=Literal["a", "b"],
        on=bool,
        keep=tuple[str, ...],
        count=Annotated[int, Ge(1)],
    )
    found = {d.name: d for d in dimensions_of(plain)}
    assert set(found) == {"few", "form", "on"}
    assert 0 < found["few"].low < 0.01
    assert found["few"].high == 1
    assert found["form"].choices == ("a", "b")
    tuned = _pass(few=Annotated[float, Gt(0), Le(1)], count=Annotated[int, Ge(1), fxopt.Tune(2, 9)] | None)
    assert dimensions_of(tuned) == (Dimension("count", (), 2, 9, whole=True),)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"low": 1.0},
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 0, "high": 1, "choices": (1,)},
    ],
)
def test_a_tune_that_is_none_is_refused_where_it_is_written(wrong):
    with pytest.raises(ValueError, match="Tune"):
        fxopt.Tune(**wrong)


def test_a_recipe_widens_narrows_and_fixes():
    table = {
        "passes": ["prune_channels", "quantize", "equalize"],
        "require": ["quantize"],
        "prune_channels": {"ratio": [0.1, 0.5], "by": ["l1"], "scope": "global"},
        "equalize": {"stage": "recover"},
    }
    space = read_space(table, ("onnx",))
    assert {p.name for p in space.passes} == {"prune_channels", "quantize", "equalize", "fold_batch_norm", "clean_up"}
    channels = space.find("prune_channels")
    assert channels.groups() == (("ratio", "macs"),)  # either of the two
    assert channels.fixed == {"scope": "global"}
    assert {d.name: d.choices for d in channels.dimensions}["by"] == ("l1",)
    from_it = Point(
        ("prune_channels(ratio=0.3, by='l1', scope='global')", "fold_batch_norm", "clean_up", "quantize"), "onnx"
    )
    assert space.parameters(from_it)["prune_channels.one_of.0"] == "ratio"
    assert space.suggest(_First()).passes[-1] == "quantize"


class _First:
    def suggest_categorical(self, name, choices):
        return choices[0]

    def suggest_float(self, name, low, high, *, log=False):
        return low


def test_options_that_the_recipe_has_written_stay():
    space = read_space({}, ("onnx",), ("prune_channels(ratio=0.5, samples=512)", "distill(temperature=2.0)"))
    assert space.find("prune_channels").fixed == {"ratio": 0.5, "samples": 512}
    assert "macs" not in {d.name for d in space.find("prune_channels").dimensions}  # ratio is given, so macs is not
    assert space.find("distill").fixed == {"temperature": 2.0}


@pytest.mark.parametrize(
    ("table", "error", "says"),
    [
        ({"pases": []}, UnknownNameError, "passes"),
        ({"passes": ["prune_chanels"]}, UnknownNameError, "prune_channels"),
        ({"prune_channels": {"mac": 0.5}}, UnknownNameError, "macs"),
        ({"prune_channels": {"macs": []}}, OptionError, "empty"),
        ({"prune_channels": {"macs": [0.5, 0.5]}}, OptionError, "interval"),
        ({"prune_channels": {"macs": [-1.0, 0.5]}}, OptionError, "macs"),
        ({"prune_channels": {"scope": ["layer", "galaxy"]}}, OptionError, "galaxy"),
        ({"prune_channels": 3}, OptionError, "table"),
        ({"passes": "quantize"}, OptionError, "list"),
        ({"passes": ["equalize"]}, UsageError, "stage"),
        ({"equalize": {"stage": "soon"}}, UnknownNameError, "soon"),
        ({"require": ["quantize", "cast_floats"]}, UsageError, "numeric"),
        ({"passes": []}, UsageError, "nothing is left"),
    ],
)  # fmt: skip
def test_a_space_that_is_none_is_refused(table, error, says):
    with pytest.raises(error, match=says):
        read_space(table, ("onnx",))
