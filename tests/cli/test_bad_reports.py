"""What the commands on builds say of folders that hold none, of reports they do not know, and of names that would do harm."""

import json
import shutil
import sys

import pytest
import torch

import fxopt
from fxopt.cli.main import main

HURT = "\x1b[2J<script>hurt()</script>[bold]x[/]"


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    place = tmp_path_factory.mktemp("bad")
    for name, width in (("one", 3), ("other", 4)):
        net = torch.nn.Sequential(torch.nn.Linear(width, 2), torch.nn.ReLU()).eval()
        fxopt.save_program(fxopt.capture(net, (torch.randn(1, width),)), place / f"{name}.pt2")
        fxopt.build(fxopt.Recipe(str(place / f"{name}.pt2"), backend="eager"), place / name, measure=False)
    return place


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["fxopt", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


def _spoilt(folder, how):
    path = folder / "report.json"
    if how == "no report":
        path.unlink()
    elif how == "another version":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_text("[1]")


@pytest.mark.parametrize("how", ["no report", "another version", "cut", "no object"])
@pytest.mark.parametrize("command", ["report", "page", "diff", "debug", "profile"])
def test_a_report_that_cannot_be_read_is_refused_with_a_way_out(command, how, builds, cli, tmp_path):
    folder = tmp_path / "build"
    shutil.copytree(builds / "one", folder)
    _spoilt(folder, how)
    args = {"page": ["report", folder, "--html", tmp_path / "p.html"], "diff": ["diff", builds / "one", folder]}
    code, _out, err = cli(*args.get(command, [command, folder]))
    assert code == 2, err
    assert str(folder) in err
    assert "Traceback" not in err
    assert not (tmp_path / "p.html").exists()
    if how == "another version":
        assert "schema_version 99" in err
        assert "read it with the fxopt that wrote it" in err


def test_builds_of_different_models_are_told_apart(builds, cli, tmp_path):
    code, _, err = cli("report", builds / "one", builds / "other", "--html", tmp_path / "p.html")
    assert code == 2
    assert "different models" in err
    assert not (tmp_path / "p.html").exists()
    _, out, _ = cli("diff", builds / "one", builds / "other")
    assert "model" in out.split("\n")[2]


@pytest.mark.parametrize("width", ["80", "200"])
@pytest.mark.parametrize("command", ["report", "diff"])
def test_hostile_names_are_shown_and_do_nothing(command, width, builds, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    folder = tmp_path / "build"
    shutil.copytree(builds / "one", folder)
    values = json.loads((folder / "report.json").read_text())
    values["model"]["name"] = HURT
    values["recipe"]["passes"] = [HURT]
    step = {"pass": HURT, "kind": "exact", "changed": False, "choices": [], "seconds": 0.0}
    step["skips"] = [{"node": HURT, "source": HURT, "reason": HURT}]
    values["steps"] = [step]
    (folder / "report.json").write_text(json.dumps(values))
    args = [folder] if command == "report" else [builds / "one", folder]
    code, out, err = cli(command, *args)
    assert code == 0, err
    assert "\x1b" not in out
    assert "\\x1b[2J<script>hurt()</script>[bold]x[/]" in out
