"""A build that misses its budget has another name than that asked for, and nothing is lost."""

import json
import shutil

import pytest
import torch
from cases.stages import stages_told
from torch import nn

import fxopt
from fxopt.driver.budget import Budget
from fxopt.driver.build import build
from fxopt.driver.build_targets import build_several
from fxopt.driver.recipe import Recipe
from fxopt.errors import UsageError
from fxopt.runtime.staging import staged


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.pt2"
    fxopt.save_program(fxopt.capture(nn.Linear(3, 2).eval(), (torch.randn(1, 3),)), path)
    return path


@pytest.fixture
def make(model, tmp_path):
    """Build into ``out/net`` with a limit of ``file_bytes`` that is kept or missed; gives the report."""

    def make(missed, out=tmp_path / "out" / "net", **options):
        recipe = Recipe(str(model), (), "eager", budget=Budget(file_bytes=1 if missed else None))
        return build(recipe, out, measure=False, **options)

    return make


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "net"


def _contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _names(out):
    return sorted(path.name for path in out.parent.iterdir())


def test_a_miss_alone_leaves_no_folder_of_the_name(make, out):
    report = make(missed=True)
    assert report.missed
    assert _names(out) == ["net.missed"]
    assert report.folder == str(out.with_name("net.missed"))


def test_a_miss_is_a_whole_artifact_and_the_earlier_one_stays_as_it_was(make, out):
    good = make(missed=False)
    assert good.folder == str(out)
    before = _contents(out)
    report = make(missed=True)
    assert _names(out) == ["net", "net.missed"]
    assert _contents(out) == before
    assert fxopt.load(report.folder)(torch.ones(4, 3)).shape == (4, 2)
    kept = json.loads((out.with_name("net.missed") / "report.json").read_text())
    assert kept == report.model_copy(update={"folder": None}).to_dict()


def test_a_later_miss_replaces_it_and_a_later_good_build_removes_it(make, out):
    make(missed=True)
    first = _contents(out.with_name("net.missed"))
    make(missed=True)
    assert _names(out) == ["net.missed"]
    assert _contents(out.with_name("net.missed")) != first, "the seconds in the report, if nothing else, are others"
    make(missed=False)
    assert _names(out) == ["net"]


def test_a_build_that_fails_keeps_the_miss_before_it(make, out):
    make(missed=True)
    before = _contents(out.parent)

    def stop(stage):
        if stage == "measure":
            raise RuntimeError("late")

    for missed in (True, False):
        with stages_told(stop), pytest.raises(RuntimeError, match="late"):
            make(missed=missed)
    assert _contents(out.parent) == before
    assert _names(out) == ["net.missed"]


@pytest.mark.parametrize("missed", [True, False])
@pytest.mark.parametrize("what", ["a note in it", "a file of that name", "a link to nowhere", "a good artifact"])
def test_what_no_build_missed_with_is_never_lost(missed, what, make, out):
    """It is refused at once: after a long build there must be a place for it."""
    kept = out.with_name("net.missed")
    out.parent.mkdir()
    if what == "a note in it":
        make(missed=True)
        (kept / "note.txt").write_text("mine")
    elif what == "a file of that name":
        kept.write_text("mine")
    elif what == "a link to nowhere":
        kept.symlink_to("nowhere")
    else:
        make(missed=False, out=kept)
    before = _contents(out.parent)
    early = stages_told(lambda stage: pytest.fail("it is known before anything is built"))
    with early, pytest.raises(UsageError, match=r"net\.missed.* is not part of an artifact that missed a budget"):
        make(missed=missed)
    assert _contents(out.parent) == before
    assert _names(out) == ["net.missed"]


def test_what_is_put_into_it_during_a_good_build_stays(make, out):
    make(missed=True)
    kept = out.with_name("net.missed")
    with staged(out) as stage:
        shutil.copytree(kept, stage.folder, dirs_exist_ok=True)
        (kept / "note.txt").write_text("mine")
    assert _names(out) == ["net", "net.missed"]
    assert (kept / "note.txt").read_text() == "mine"


def test_of_a_link_the_miss_is_beside_the_folder_that_it_leads_to(make, out):
    make(missed=False)
    link = out.parent.parent / "current"
    link.symlink_to(out)
    assert make(missed=True, out=link).folder == str(out.with_name("net.missed"))
    assert _names(out) == ["net", "net.missed"]


def test_each_of_several_targets_is_by_itself(model, tmp_path):
    (tmp_path / "small.toml").write_text('triple = "x86_64-linux-gnu"\nflash = 1\n')
    recipe, told = Recipe(str(model), (), "eager"), []
    targets = ["x86_64_v3", str(tmp_path / "small.toml")]
    build_several(recipe, targets, tmp_path / "out", lambda name, report: told.append(report.folder), measure=False)
    assert told == [str(tmp_path / "out" / name) for name in ("x86_64_v3", "small.missed")]
    assert _names(tmp_path / "out" / "x") == ["small.missed", "x86_64_v3"]
