"""A second build looks up what the first one made, gives the same artifact, and does again only what changed."""

import json
from dataclasses import replace

import pytest
from cases.training import workload as blobs
from typer.testing import CliRunner

import fxopt.cli.cache  # noqa: F401  (it adds its command)
from fxopt import build
from fxopt.cli.app import app
from fxopt.driver.default_cache import result_store
from fxopt.driver.recipe import Recipe
from fxopt.errors import UsageError
from fxopt.support.store import CacheWarning

PASSES = ("finetune(epochs=2, rate=0.02)", "fold_batch_norm", "quantize")
ONNX = Recipe(model="blobs", passes=PASSES, backend="onnx")
RECIPE = replace(ONNX, backend="eager")


@pytest.fixture(autouse=True)
def _workload(registering):
    registering("workload", "blobs", lambda: blobs())  # data of its own for each build, as in a process of its own


def _facts(report):
    """The report without what takes another time each time, or says where things came from."""
    values = report.to_dict()
    for key in ("seconds", "cache", "folder"):
        values.pop(key, None)
    for side in ("before", "after"):
        values[side].pop("peak_memory_bytes", None)
    for step in values["steps"]:
        step.pop("seconds")
        step.pop("cached")
    return values


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.json"}


def test_a_second_build_is_looked_up_and_is_the_same(tmp_path):
    plain = build(ONNX, tmp_path / "plain", measure=False, cache=False)
    first = build(ONNX, tmp_path / "first", measure=False)
    second = build(ONNX, tmp_path / "second", measure=False)
    assert plain.cache is None
    assert (second.cache.steps, second.cache.of) == (len(second.steps), len(second.steps))
    assert second.cache.seconds_saved == pytest.approx(sum(step.seconds for step in first.steps), abs=0.01)
    assert [step.seconds for step in second.steps] == [step.seconds for step in first.steps]
    assert _facts(plain) == _facts(first) == _facts(second)
    assert _files(tmp_path / "plain") == _files(tmp_path / "first") == _files(tmp_path / "second")
    assert result_store().usage()["artifacts"].hits == 1


def test_one_option_at_the_end_leaves_the_training_as_it_is(tmp_path):
    build(RECIPE, tmp_path / "a", measure=False)
    other = replace(RECIPE, passes=(*RECIPE.passes[:-1], "quantize(per_channel=False)"))
    found = build(other, tmp_path / "b", measure=False)
    cached = [step.cached for step in found.steps]
    assert cached[0]
    assert not cached[-1]
    assert _facts(found) == _facts(build(other, tmp_path / "c", measure=False, cache=False))
    assert _files(tmp_path / "b") == _files(tmp_path / "c")


@pytest.mark.slow
def test_other_backends_share_the_steps_that_do_not_ask_for_the_backend(tmp_path):
    build(RECIPE, tmp_path / "a", measure=False)
    found = build(ONNX, tmp_path / "b", measure=False)
    assert found.steps[0].cached


@pytest.mark.slow
def test_latency_is_measured_each_time(tmp_path):
    found = [build(RECIPE, tmp_path / "a", measure=True) for _ in range(2)]
    assert found[0].after.latency != found[1].after.latency


def test_a_damaged_artifact_entry_is_built_again(tmp_path):
    build(RECIPE, tmp_path / "a", measure=False)
    for path in (result_store().root / "artifacts").rglob("*"):
        if len(path.name) > 60:
            path.write_bytes(path.read_bytes()[:-1])
    build(RECIPE, tmp_path / "b", measure=False)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_without_room_a_build_goes_on_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FXOPT_CACHE", str(tmp_path / "file"))
    with pytest.warns(CacheWarning):
        found = build(RECIPE, tmp_path / "a", measure=False)
    assert "Not a directory" in found.cache.problem
    assert found.cache.steps == 0


def test_a_limit_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("FXOPT_CACHE_BYTES", "much")
    with pytest.raises(UsageError, match="FXOPT_CACHE_BYTES=much is no number"):
        result_store()


def test_the_command_shows_and_clears(tmp_path):
    store = result_store()
    store.put("steps", "a" * 64, {})
    (store.root.parent / "tvm-tiles.jsonl").write_text("kept\n")

    def run(*words):
        found = CliRunner().invoke(app, ["cache", *words])
        assert found.exit_code == 0
        return found.output

    shown = json.loads(run("--json"))
    assert shown["folder"] == str(store.root)
    assert shown["kinds"]["steps"]["entries"] == 1
    assert "steps" in run()
    assert "removed" in run("clear")
    assert store.usage() == {}
    assert (store.root.parent / "tvm-tiles.jsonl").exists()
