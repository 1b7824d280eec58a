"""What a search begins with, for models with and without recipes of their own."""

from pathlib import Path

import pytest

import fxopt
from fxopt.automl.presets import presets, remember
from fxopt.automl.space import Point
from fxopt.automl.wanted import wanted
from fxopt.driver.recipe import read_recipe
from fxopt.pass_manager.pipeline import Pipeline

MODELS = Path(fxopt.__file__).parent.parent / "models"
DIGITS, GLYPHS = (read_recipe(MODELS / f"{name}.toml") for name in ("digits", "glyphs"))


def first(model, **recipe):
    want = wanted(fxopt.Recipe(model, **{"backend": "fastest", **recipe}), limits={"drop": 0.01}, seconds=60)
    return want, [(r.preset, r.point) for r in presets(want.space, want.recipe, want.target)]


def point(recipe, backend="onnx"):
    return Point(tuple(map(str, Pipeline.parse(recipe.passes).passes)), backend)


def test_a_model_without_a_recipe_begins_with_those_of_others():
    _, found = first("small_vit")
    assert [name for name, _ in found[:3]] == ["exact", "quantize", "shipped with another"]
    assert {("shipped with another", point(recipe)) for recipe in (DIGITS, GLYPHS)} < set(found)


def test_what_is_written_for_the_model_and_what_won_here_come_before_what_others_have():
    want, _ = first("digits")
    won = Point(("prune_channels(macs=0.7)", "fold_batch_norm", "clean_up"), "tvm")
    remember(want.target, "another", won)
    _, found = first("digits")
    names = [name for name, _ in found]
    assert names[2:5] == ["shipped", "won before", "shipped with another"]
    assert (found[2][1], found[3][1]) == (point(DIGITS), won)
    assert len({p for _, p in found}) == len(found), "each is tried once"


@pytest.mark.parametrize("search", [{"passes": ["quantize"]}, {"passes": ["quantize"], "backends": ["tvm"]}])
def test_those_of_others_stay_in_the_space_that_is_asked_for(search, tmp_path):
    file = tmp_path / "recipe.toml"
    lists = "\n".join(f"{key} = {value}" for key, value in search.items())
    file.write_text(f'model = "small_vit"\nbackend = "fastest"\n[search]\n{lists}\n')
    want = wanted(file, limits={"drop": 0.01}, seconds=60)
    found = [(r.preset, r.point) for r in presets(want.space, want.recipe, want.target)]
    assert all("distill" not in text and "prune" not in text for _, p in found for text in p.passes)
    assert {p.backend for _, p in found} <= set(want.space.backends)
