"""A search from end to end on a model that trains in a moment: answers that build as they were found, and nothing is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cases.network import free_address

import fxopt
from fxopt import registry
from fxopt.automl.evaluator import Evaluator, Task
from fxopt.automl.rungs import Rung
from fxopt.automl.space import Point
from fxopt.driver.load_file import load_file
from fxopt.errors import UsageError
from fxopt.target.detect import host

CASE = Path(__file__).parent.parent / "cases" / "stripes.py"
TRIALS = 8
# quantities that do not depend on how busy the machine is
STEADY = ["metric_drop", "file_bytes", "macs"]
RECIPE = {"passes": ["prune_channels", "low_rank", "reconstruct", "quantize_weights"], "low_rank": {"form": "channel"}}


@pytest.fixture(scope="module", autouse=True)
def case(tmp_path_factory, brief_timing):
    with registry.restored(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FXOPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        load_file(CASE)
        yield


def recipe(**search):
    return fxopt.Recipe(model="stripes", backend="onnx", search={**RECIPE, **search})


def run(out, trials=TRIALS, **options):
    options = {"limits": {"drop": 0.1}, "objectives": STEADY, "trials": trials, "load": (str(CASE),), **options}
    return fxopt.search(options.pop("recipe", None) or recipe(), out, **options)


@pytest.fixture(scope="module")
def found(case, tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "out"
    return run(out), out


def test_the_front_keeps_the_limits_and_nobody_on_it_dominates(found):
    report, out = found
    assert report.trials >= TRIALS
    assert report.front
    values = [tuple(a.figures[w] for w in STEADY) for a in report.front]
    assert all(a.figures["metric_drop"] <= 0.1 + 1e-9 for a in report.front)
    for a in values:
        assert not any(all(x <= y for x, y in zip(b, a, strict=True)) and b != a for b in values)
    assert json.loads((out / "search.json").read_text())["schema_version"] == report.schema_version


def test_a_recipe_of_the_front_builds_what_the_search_measured(found, tmp_path):
    report, out = found
    answer = report.front[-1]
    built = fxopt.build(out / answer.recipe, tmp_path / "built", measure=False)
    assert built.after.file_bytes == answer.figures["file_bytes"]
    assert built.after.macs == answer.figures["macs"]
    assert built.before.metric - built.after.metric == pytest.approx(answer.test_drop)
    (kept,) = [
        k for k in (out / "kept").glob("*/model.onnx") if k.read_bytes() == (tmp_path / "built/model.onnx").read_bytes()
    ]
    assert kept.exists()


def test_each_technique_is_on_the_front_or_it_is_said_why_not(found):
    report, _ = found
    assert {t.name for t in report.techniques} == {"prune_channels", "low_rank", "reconstruct", "quantize_weights"}
    for technique in report.techniques:
        having = [a for a in report.front if any(p.startswith(technique.name) for p in a.passes)]
        assert technique.on_front == bool(having)
        assert technique.on_front or technique.why_not


@pytest.mark.slow
def test_going_on_adds_trials_and_loses_none(found, tmp_path):
    import shutil

    report, out = found
    shutil.copytree(out, tmp_path / "out")
    more = run(tmp_path / "out", TRIALS + 4)
    assert more.trials >= report.trials + 4
    assert more.hypervolume >= report.hypervolume


def test_other_settings_under_one_study_are_refused(found):
    _, out = found
    with pytest.raises(UsageError, match="limits"):
        run(out, limits={"drop": 0.2})


@pytest.mark.slow
def test_a_limit_nobody_can_keep_gives_the_nearest_and_what_blocks_it(tmp_path):
    report = run(tmp_path / "out", 5, limits={"macs": 10})
    assert not report.front
    assert set(report.blocked_by) == {"macs"}
    assert report.nearest.figures["macs"] == report.blocked_by["macs"] > 10


@pytest.mark.slow
def test_a_pass_that_crashes_hangs_or_eats_memory_costs_its_trial(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import os\nfrom typing import Annotated, Literal\nfrom fxopt import Program, Tune, graph_pass\n"
        "@graph_pass(kind='approx', stage='width')\n"
        "def misbehave(program: Program, *, how: Annotated[str, Tune(choices=('exit', 'raise'))] = 'exit') -> None:\n"
        '    """Misbehave."""\n'
        "    if how == 'exit':\n        os.abort()\n    raise RuntimeError('no')\n"
    )
    with registry.restored():
        load_file(bad)
        space = {"passes": ["misbehave", "quantize_weights"]}
        report = run(tmp_path / "out", 9, recipe=fxopt.Recipe("stripes", search=space), load=(str(CASE), str(bad)))
    assert report.front  # the others went on
    assert {r.why for r in report.rejected} <= {"failed", "refused"}
    examples = "\n".join(r.example for r in report.rejected)
    assert "SIGABRT" in examples or "RuntimeError" in examples


@pytest.mark.parametrize("module", ["fxopt.automl.search", "fxopt.automl.nas.nas"])
def test_without_optuna_the_error_says_what_to_install(module):
    code = f"import sys; sys.modules['optuna'] = None; import importlib; importlib.import_module({module!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UsageError: a search needs optuna" in done.stderr
    assert "pip install 'fxopt[search]'" in done.stderr


def command(out, trials):
    written = out.parent / "recipe.toml"
    lines = "\n".join(f"{k} = {json.dumps(v)}" for k, v in RECIPE.items() if k == "passes")
    written.write_text(f'model = "stripes"\nbackend = "onnx"\n[search]\n{lines}\nlow_rank = {{ form = "channel" }}\n')
    return [
        sys.executable, "-m", "fxopt", "search", str(written), "--load", str(CASE), "-o", str(out), "--drop", "0.1",
        "--minimize", "metric,size,macs", "--trials", str(trials), "--json",
    ]  # fmt: skip


def front_of(out):
    report = json.loads((out / "search.json").read_text())
    return [(a["passes"], {w: a["figures"][w] for w in STEADY}) for a in report["front"]]


def killed(out, seconds, number=signal.SIGKILL):
    """Run the command and end it after so many seconds; its exit code, 0 if it was through before."""
    process = subprocess.Popen(command(out, TRIALS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return process.wait()


def check_kills(found, tmp_path, moments):
    out = tmp_path / "search" / "out"
    out.parent.mkdir()
    for moment in moments:
        killed(out, moment)
    subprocess.run(command(out, TRIALS), check=True, stdout=subprocess.DEVNULL, env={**os.environ})
    assert front_of(out) == front_of(found[1])


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_front(found, tmp_path):
    check_kills(found, tmp_path, [10.0])


@pytest.mark.zoo  # minutes; one kill is in the slow tests
def test_a_search_killed_at_twenty_moments_goes_on_to_the_same_front(found, tmp_path):
    draw = random.Random(0)
    check_kills(found, tmp_path, [draw.uniform(4, 18) for _ in range(20)])


@pytest.mark.slow
def test_a_search_on_a_device_leaves_its_one_session_to_the_process_that_measures(tmp_path):
    pytest.importorskip("tvm")
    address, here = free_address(), host()
    target = tmp_path / "board.toml"
    target.write_text(
        f'triple = "{here.triple}"\ncpu = "{here.cpu}"\nfeatures = {json.dumps(sorted(here.features))}\n'
        f'address = "{address}"\n'
    )
    with subprocess.Popen([sys.executable, "-m", "fxopt", "serve", address], stdout=subprocess.PIPE) as device:
        try:
            assert device.stdout.readline()  # it serves
            search = fxopt.Recipe(
                "stripes", backend="onnx", target=str(target), search={"passes": ["quantize_weights"]}
            )
            report = run(tmp_path / "out", 2, recipe=search, objectives=["metric_drop", "latency_ms"])
        finally:
            device.terminate()
    assert report.front
    assert all(answer.figures["latency_ms"] > 0 for answer in report.front)


@pytest.mark.slow
def test_libraries_of_one_process_are_each_loaded_anew(tmp_path):
    """The loader knows a library by its path: built where another was, the earlier one would be timed, or refuse."""
    pytest.importorskip("tvm")
    evaluator = Evaluator(Task(fxopt.Recipe("stripes", backend="tvm"), (), str(tmp_path)))
    for passes in (("fold_batch_norm",), ("prune_channels(ratio=0.5)", "fold_batch_norm"), ("quantize",)):
        assert evaluator.run(Point(passes, "tvm"), Rung("speed", passes))["figures"]["latency_ms"] > 0


@pytest.mark.slow
def test_an_interrupt_prints_what_was_found_and_ends_with_130(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(out, 500), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )  # fmt: skip
    # the first two of them are the original's and that of a trial that ended
    while len(list((out / "kept").glob("*"))) < 3:
        time.sleep(0.2)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert json.loads((out / "search.json").read_text())["front"]
    assert json.loads(printed)["front"]
