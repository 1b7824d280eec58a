"""For authors: files to start from, what a machine lacks, and whose mistake a crash is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fxopt import registry
from fxopt.cli.main import main

BAD = Path(__file__).parents[1] / "cases" / "bad.py"


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["fxopt", *map(str, args)])
        with registry.restored(), pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_what_new_writes_works_at_once_and_is_not_overwritten(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("backend", "workload", "recipe"):
        code, out, err = cli("new", kind, f"my_{kind}")
        assert code == 0, err
        assert f"my_{kind}." in out
        assert cli("new", kind, f"my_{kind}")[0] == 2
        assert cli("new", kind, "No-Name")[0] == 2
    assert cli("new", "backend", "onnx")[0] == 2, "a name that is taken"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout
    from fxopt.driver.recipe import read_recipe
    from fxopt.pass_manager.pipeline import Pipeline

    recipe = read_recipe(tmp_path / "my_recipe.toml")
    assert len(Pipeline.parse(recipe.passes).passes) == 4
    assert recipe.budget.file_bytes == 2_000_000


def test_doctor_names_what_is_missing_and_the_command_that_mends_it(cli, monkeypatch, tmp_path):
    import importlib.metadata

    real = importlib.metadata.version

    def version(name):
        if name == "tensorly":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = cli("doctor", "--json")
    assert code == 0, err
    found = {(each["about"], each["what"]): each for each in json.loads(out)}
    low_rank = found["extras", "lowrank"]
    assert (low_rank["state"], low_rank["way_out"]) == ("missing", "pip install 'fxopt[lowrank]'")
    assert low_rank["detail"] == "without tensorly"
    assert found["extras", "onnx"]["state"] == "ok"
    assert found["programs", "dot"]["way_out"] == "apt-get install graphviz"
    assert found["backends, for this machine", "eager"]["state"] == "ok"
    assert "tensorly" in cli("doctor")[1]


def _broken_plugin(folder):
    (folder / "broken_plugin.py").write_text("raise RuntimeError('half done')\n")
    (folder / "broken_plugin-1.2.dist-info").mkdir()
    (folder / "broken_plugin-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.2\n"
    )
    (folder / "broken_plugin-1.2.dist-info" / "entry_points.txt").write_text(
        "[fxopt.passes]\nhalf = broken_plugin:half\n"
    )


def _run(code, folder):
    env = {"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"}
    command = f"import sys; sys.argv = ['fxopt', *{code!r}]; from fxopt.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False, env=env)


def test_a_plugin_that_cannot_be_loaded_is_named(tmp_path):
    _broken_plugin(tmp_path)
    done = _run(["doctor"], tmp_path)
    assert done.returncode == 1
    for word in ("pass half", "of broken-plugin", "half done", "1 broken"):
        assert word in done.stdout
    done = _run(["explain", "half"], tmp_path)
    assert done.returncode == 2
    assert "broken-plugin" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_crash_shows_whose_it_is_without_the_frames_that_lead_to_it(cli, tmp_path):
    code, _, err = cli("build", "crashes", "--load", BAD, "-b", "eager", "-o", tmp_path / "out", "--no-measure", "-q")
    assert code == 5
    assert "Traceback" in err
    assert "typer" not in err
    assert f"a mistake in {BAD.name}" in err


def test_a_pass_that_crashes_shows_its_line(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from fxopt import Program, graph_pass\n\n\n@graph_pass\ndef hurt(program: Program) -> None:\n"
        '    """Hurt."""\n    {}["absent"]\n'
    )
    code, _, err = cli(
        "build", "digits", "-p", "hurt", "--load", tmp_path / "mine.py", "-b", "eager", "-o", tmp_path / "out"
    )
    assert code == 3
    assert f"raised in mine.py, {tmp_path / 'mine.py'}:7" in err
    assert 'absent"]' in err
    assert "Traceback" not in err
