"""The command line: exit codes, messages, and nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fxopt
from fxopt.cli.main import main

BAD = Path(__file__).parents[1] / "cases" / "bad.py"


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run the command line in this process; gives exit code, standard output, standard error."""

    def run(*args):
        from fxopt import registry

        monkeypatch.setattr(sys, "argv", ["fxopt", *map(str, args)])
        code = 0
        try:
            with registry.restored():
                main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_lists_name_what_is_registered(cli):
    code, out, _ = cli("passes")
    assert code == 0
    assert "fold_batch_norm" in out
    assert "quantize" in out
    code, out, _ = cli("passes", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["quantize"]["origin"] == "fxopt"
    assert all(row["summary"] for row in rows.values()), "every pass has a first line that lists can show"
    assert json.loads(cli("backends", "--json")[1])
    assert {"digits", "glyphs", "torchvision", "timm"} <= {
        row["name"] for row in json.loads(cli("models", "--json")[1])
    }
    (host,) = (t for t in json.loads(cli("targets", "--json")[1]) if t["name"] == "host")
    assert host["cores"] >= 1


def test_explain_shows_options_with_types_and_defaults(cli):
    code, out, _ = cli("explain", "quantize")
    assert code == 0
    assert "scheme" in out
    assert "default 'int8'" in out
    code, _, err = cli("explain", "quantise")
    assert code == 2
    assert "'quantize'" in err


@pytest.mark.parametrize(
    "words", ["--help", "passes", "backends", "targets", "explain quantize", "explain raspberry_pi_4"]
)
def test_what_only_tells_imports_nothing_that_takes_long(words):
    slow = (
        "torch",
        "numpy",
        "pydantic",
        "rich.console",
        "optuna",
        "onnx",
        "onnxruntime",
        "openvino",
        "tvm",
        "executorch",
    )
    probe = (
        f"import atexit, sys; atexit.register(lambda: print('imported', [n for n in {slow} if n in sys.modules]));"
        f"sys.argv = ['fxopt', *{words.split()}]; from fxopt.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert len(done.stdout) > 200
    assert done.stdout.splitlines()[-1] == "imported []"


RECIPE = 'model = "digits"\npasses = ["fold_batch_norm"]\nbackend = "eager"\n'
MISTAKES = {
    "pass": (["digits", "-p", "fold_batchnorm"], 2, ["unknown pass 'fold_batchnorm'", "'fold_batch_norm'"]),
    "option": (["digits", "-p", "quantize(shceme='int8')"], 2, ["option of quantize", "'scheme'"]),
    "option type": (["digits", "-p", "quantize(images='many')"], 2, ["images", "int", "'many'"]),
    "option range": (["digits", "-p", "quantize(images=0)"], 2, ["images", "0"]),
    "option choice": (["digits", "-p", "quantize(scheme='int9')"], 2, ["'int8'", "'int9'"]),
    "backend": (["digits", "-b", "onxx"], 2, ["unknown backend 'onxx'", "'onnx'"]),
    "backend option": (["digits", "-b", "onnx(threds=2)"], 2, ["option of the backend onnx", "'threads'"]),
    "target": (["digits", "-t", "hots"], 2, ["unknown target 'hots'", "'host'"]),
    "target file": (["digits", "-t", "missing.toml"], 2, ["missing.toml"]),
    "model": (["digist"], 2, ["'digits'"]),
    "zoo model": (["torchvision:resnet81"], 2, ["'resnet18'"]),
    "model module": (["nowhere:net"], 2, ["nowhere"]),
    "not a call": (["digits", "-p", "__import__('os').system('touch owned')"], 2, ["nothing was executed"]),
    "not literals": (["digits", "-p", "quantize(images=__import__('os'))"], 2, ["nothing was executed"]),
    "positional": (["digits", "-p", "quantize('int8')"], 2, ["by name"]),
    "missing file": (["missing.pt2"], 2, ["missing.pt2"]),
    "missing recipe": (["missing.toml"], 2, ["missing.toml"]),
    "no data": (["no_data", "-p", "quantize", "--load", BAD], 3, ["quantize needs data", "'bad'"]),
    "nan data": (["nan_data", "-p", "fold_batch_norm, quantize", "--load", BAD], 3, ["DataError", "NaN"]),
    "wrong shape": (
        ["wrong_shape", "-p", "fold_batch_norm, quantize", "--load", BAD],
        3,
        ["DataError", "[8, 3, 8, 8]"],
    ),
    "empty data": (["empty_data", "-p", "fold_batch_norm, quantize", "--load", BAD], 3, ["DataError"]),
    "text output": (["text_output", "--load", BAD], 3, ["CaptureError", "str"]),
    "calibration file": (["digits", "-p", "quantize", "--calibrate", "missing.npy"], 2, ["missing.npy"]),
    "print after": (["digits", "-p", "clean_up", "--print-after", "cleanup"], 2, ["'clean_up'"]),
    "a module": (["cases.bad:MODULE"], 2, ["is no Workload but a Linear"]),
    "a failing factory": (["cases.bad:fails"], 2, ["ZeroDivisionError", "bad.py:"]),
    "a failing model": (
        ["fails_later", "--load", BAD],
        2,
        ["the model of 'bad' failed", "ZeroDivisionError", "bad.py:"],
    ),
    "interrupt": (["digits", "-p", "interrupt", "--load", BAD], 130, ["nothing was written"]),
    "terminate": (["digits", "-p", "terminate", "--load", BAD], 143, ["nothing was written"]),
    "load": (["digits", "--load", "missing.py"], 2, ["missing.py"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_a_message_an_exit_code_and_leaves_nothing(name, cli, tmp_path, monkeypatch):
    args, code, words = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    got, _, err = cli("build", *args, "--out", "made/out", *([] if "-b" in args else ["-b", "eager"]))
    assert got == code, err
    for word in words:
        assert word in err
    assert "Traceback" not in err
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not left, "nothing may be half-written"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = ", ["not a TOML recipe"]),
        ('modle = "digits"', ["key", "'modle'", "'model'"]),
        ('passes = ["quantize"]', ["'model' is missing"]),
        ("model = 3", ["model", "str", "3"]),
        (RECIPE + "[budget]\nlatency = 2", ["'latency'", "'latency_ms'"]),
        (RECIPE + "[budget]\nlatency_ms = -1.0", ["latency_ms", "-1.0"]),
    ],
)
def test_a_recipe_is_read_strictly(text, words, cli, tmp_path):
    (tmp_path / "r.toml").write_text(text)
    code, _, err = cli("build", tmp_path / "r.toml", "--out", tmp_path / "out")
    assert code == 2
    for word in words:
        assert word in err


@pytest.mark.parametrize("kind", ["pickle", "truncated", "text"])
def test_a_file_that_is_no_program_is_refused(kind, cli, tmp_path):
    path = tmp_path / "model.pt2"
    if kind == "pickle":
        torch.save(torch.nn.Linear(2, 2), path)
    else:
        from fxopt import capture, save_program

        save_program(capture(torch.nn.Linear(2, 2), (torch.randn(1, 2),)), path)
        path.write_bytes(path.read_bytes()[:400] if kind == "truncated" else b"hello")
    code, _, err = cli("build", path, "--out", tmp_path / "out", "-b", "eager")
    assert code == 2
    assert "RecipeError" in err
    assert "model.pt2" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_users_is_never_replaced(cli, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = cli("build", "digits", "-b", "eager", "--out", tmp_path / "mine")
    assert code == 2
    assert "thesis.txt is not part of an artifact" in err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_folder_with_a_manifest_of_somebody_else_is_never_replaced(cli, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"files": []}')
    (tmp_path / "app" / "index.js").write_text("code")
    code, _, err = cli("build", "digits", "-b", "eager", "--out", tmp_path / "app")
    assert code == 2
    assert "is not part of an artifact" in err
    assert (tmp_path / "app" / "index.js").read_text() == "code"


def test_a_note_beside_an_artifact_keeps_it_from_being_replaced(cli, tmp_path):
    out = tmp_path / "out"
    assert cli("build", "text_free", "--load", BAD, "-b", "eager", "--out", out, "--no-measure")[0] == 0
    assert cli("build", "text_free", "--load", BAD, "-b", "eager", "--out", out, "--no-measure")[0] == 0
    (out / "notes.txt").write_text("mine")
    assert cli("build", "text_free", "--load", BAD, "-b", "eager", "--out", out, "--no-measure")[0] == 2
    assert (out / "notes.txt").read_text() == "mine"


def test_of_a_link_the_folder_it_leads_to_is_written(cli, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert cli("build", "text_free", "--load", BAD, "-b", "eager", "--out", tmp_path / "link", "--no-measure")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "manifest.json").is_file()


def test_a_crash_has_an_exit_code_of_its_own(cli, tmp_path):
    code, _, err = cli("build", "crashes", "--load", BAD, "-b", "eager", "--out", tmp_path / "out", "--no-measure")
    assert code == 5
    assert "ArithmeticError: unforeseen" in err
    assert not (tmp_path / "out").exists()


def test_a_model_that_a_backend_built_wrongly_is_no_artifact(cli, tmp_path):
    args = ["build", "text_free", "--load", BAD, "-b", "wrong", "--out", tmp_path / "out", "--no-measure"]
    code, _, err = cli(*args)
    assert code == 4
    assert "gives other numbers" in err
    assert not (tmp_path / "out").exists()


def test_a_model_without_data_is_calibrated_with_recorded_inputs(cli, tmp_path):
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 4), np.float32))
    (tmp_path / "r.toml").write_text('model = "text_free"\npasses = ["quantize"]\ncalibration = "x.npy"\n')
    code, out, err = cli(
        "build", tmp_path / "r.toml", "--load", BAD, "--out", tmp_path / "out", "--no-measure", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["metric"] == "agreement"
    assert 0.95 < report["after"]["metric"] < 1
    assert report["backend"]["integer_contractions"] == 1


def test_a_model_with_a_fixed_batch_is_calibrated_and_judged_too(cli, tmp_path):
    args = [
        "build",
        "fifty_at_a_time",
        "--load",
        BAD,
        "-p",
        "quantize",
        "--out",
        tmp_path / "out",
        "--no-measure",
        "--json",
    ]
    code, out, err = cli(*args)
    assert code == 0, err
    report = json.loads(out)
    assert report["model"]["signature"].startswith("(images: f32[50,1,8,8])")
    assert report["after"]["metric"] > 0.98


def test_a_folder_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = cli("build", "digits", "-b", "eager", "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot write" in err


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_a_disk_that_is_full_leaves_nothing(backend, tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)); "
    argv = ["fxopt", "build", "digits", "-b", backend, "--out", str(tmp_path / "out")]
    code = f"{limit}import sys; sys.argv = {argv!r}; from fxopt.cli.main import main; main()"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode in (2, 4), done.stderr
    assert "cannot write" in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_missed_budget_is_exit_code_1_and_says_by_how_much_and_where_it_is(cli, tmp_path, monkeypatch):
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE + "[budget]\nfile_bytes = 1000\n")
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("build", recipe, "--out", "deep/out", "--no-measure")
    assert code == 1
    assert "file_bytes" in err
    assert "over by" in err
    assert "kept as deep/out.missed; nothing was changed at deep/out" in err
    assert "fxopt.load('deep/out.missed')" in " ".join(out.split())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.missed"]
    report = json.loads((tmp_path / "deep" / "out.missed" / "report.json").read_text())
    assert report["missed"]


def test_of_several_targets_only_what_keeps_its_budget_has_the_name_of_its_target(cli, tmp_path, monkeypatch):
    for name, flash in (("small", 1000), ("large", 10**9)):
        (tmp_path / f"{name}.toml").write_text(f'triple = "x86_64-linux-gnu"\nflash = {flash}\n')
    monkeypatch.chdir(tmp_path)
    fxopt.save_program(fxopt.capture(torch.nn.Linear(300, 2), (torch.randn(1, 300),)), "net.pt2")
    targets = ["-t", "small.toml", "-t", "large.toml"]
    code, out, err = cli("build", "net.pt2", "-b", "eager", *targets, "--out", "out", "--no-measure", "--json", "-q")
    assert code == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"small.missed", "large"}
    assert "small: flash of small" in err
    assert "kept as out/small.missed; nothing was changed at out/small" in err
    assert "large" not in err
    folders = {name: report["folder"] for name, report in json.loads(out).items()}
    assert folders == {"small": str(tmp_path / "out/small.missed"), "large": str(tmp_path / "out/large")}


@pytest.mark.slow
def test_new_pass_can_be_checked_at_once(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("new", "pass", "drop_my_dropout")
    assert code == 0
    assert "drop_my_dropout.py" in out
    code, out, err = cli("check", "drop_my_dropout", "--load", "drop_my_dropout.py")
    assert code == 0, out + err
    assert cli("new", "pass", "drop_my_dropout")[0] == 2, "a file that exists is not overwritten"
    assert cli("new", "pass", "Drop-It")[0] == 2
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout


def test_explain_runs_an_analysis_over_a_model(cli):
    code, out, _ = cli("explain", "groups", "digits")
    assert code == 0
    assert "groups can lose members" in out
    assert "it is an output of the model" in out
    code, _, err = cli("explain", "group", "digits")
    assert code == 2
    assert "groups" in err
    code, out, _ = cli("analyses")
    assert code == 0
    assert "groups" in out


def test_report_shows_a_build_again_makes_a_page_of_it_and_refuses_other_folders(cli, tmp_path):
    fxopt.save_program(fxopt.capture(torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),)), tmp_path / "net.pt2")
    out = tmp_path / "out"
    assert cli("build", tmp_path / "net.pt2", "-b", "eager", "--no-measure", "-o", out)[0] == 0
    assert "net.pt2" in cli("report", out)[1].replace("\n", "")
    assert json.loads(cli("report", out, "--json")[1])["layers"][0]["op"] == "aten.linear"
    assert cli("report", out, "--html", tmp_path / "page.html")[0] == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    code, _, err = cli("report", tmp_path)
    assert code == 2
    assert "no report" in err


def test_graph_writes_dot_and_says_what_other_files_need(cli, tmp_path, monkeypatch):
    fxopt.save_program(fxopt.capture(torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),)), tmp_path / "net.pt2")
    assert cli("graph", tmp_path / "net.pt2", "-o", tmp_path / "g.dot")[0] == 0
    assert (tmp_path / "g.dot").read_text().startswith("digraph")
    monkeypatch.setenv("PATH", "")
    for name, told in (("g.svg", "graphviz"), ("g.txt", ".dot")):
        code, _, err = cli("graph", tmp_path / "net.pt2", "-o", tmp_path / name)
        assert code == 2
        assert told in err
