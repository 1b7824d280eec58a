"""Faults of the machine: full disks, killed builds, Ctrl-C at the wrong moment, forks, two builds at once."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import fxopt
from fxopt.cli import main as cli
from fxopt.driver.build import build
from fxopt.driver.recipe import Recipe
from fxopt.errors import ResourceError
from fxopt.runtime.staging import staged
from fxopt.support.resources import resource_error
from fxopt.support.scratch import scratch_folder


def _can_mount() -> bool:
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


# ---- disks ---------------------------------------------------------------------------------------------------------

FULL = """
mkdir -p "$PLACE" && mount -t tmpfs -o size=600k none "$PLACE" || exit 77
"$PYTHON" -m fxopt build net.pt2 -b "$BACKEND" -o "$OUT" $HOW
code=$?
find "$PLACE" "$(dirname "$OUT")" -type f ! -name .ses >&2
exit $code
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A program of 4 MB."""
    folder = tmp_path_factory.mktemp("large")
    net = torch.nn.Sequential(torch.nn.Linear(512, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 512))
    fxopt.save_program(fxopt.capture(net, (torch.randn(2, 512),)), folder / "net.pt2")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not _can_mount(), reason="a small disk needs the right to mount one")
@pytest.mark.parametrize("kind", ["out", "tmp"])
@pytest.mark.parametrize("backend", ["eager", "onnx", "openvino", "tvm"])
def test_a_full_disk_is_named_and_nothing_is_left(backend, kind, large, tmp_path):
    places = {"out": tmp_path / "o" / "out", "tmp": tmp_path / "t"}
    place = places["out"].parent if kind == "out" else places[kind]
    for folder in (places["out"].parent, places["tmp"]):
        folder.mkdir()
    env = {
        **os.environ, "PLACE": str(place), "OUT": str(places["out"]), "BACKEND": backend, "PYTHON": sys.executable,
        "TMPDIR": str(places["tmp"]), "XDG_CACHE_HOME": str(tmp_path / "c"), "PYTHONWARNINGS": "ignore",
        "HOW": "--no-measure" if kind == "out" else "",  # what is measured beside it is built in the place for what is temporary
    }  # fmt: skip
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", FULL], cwd=large, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert str(place) in done.stderr, "the disk is named"
    assert not [line for line in done.stderr.splitlines() if line.startswith("/")], done.stderr


def test_an_error_of_a_full_disk_or_memory_is_told_by_what_it_is(tmp_path):
    full = OSError(28, "No space left on device", str(tmp_path / "x"))
    found = resource_error(RuntimeError("unrelated"), tmp_path)
    assert found is None
    try:
        raise RuntimeError("wrapped") from full
    except RuntimeError as error:
        found = resource_error(error)
    assert found is not None
    assert str(tmp_path / "x") in found.what
    assert found.exit_code == 4
    short = resource_error(MemoryError())
    assert isinstance(short, ResourceError)
    if sys.platform == "linux":
        held = int(re.search(r"this process held ([\d,]+) bytes at most", short.what)[1].replace(",", ""))
        assert 0.5 < held / (1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) < 2
    assert "mapped" in short.way_out
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert isinstance(resource_error(caught.value), ResourceError), "torch's own, which is no MemoryError"


# ---- litter --------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal
from pathlib import Path
from fxopt.support.scratch import scratch_folder
with scratch_folder(Path({place!r})) as folder:
    (folder / "model").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_litter_of_a_killed_process_goes_with_the_next_and_nothing_else_does(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED.format(place=str(tmp_path))], check=False)
    (litter,) = tmp_path.iterdir()
    (tmp_path / ".fxopt-scratch-of-mine").mkdir()
    (tmp_path / ".fxopt-scratch-abcdefgh").write_text("a file")
    with scratch_folder(tmp_path) as living:
        assert litter.exists(), "it is a moment old: its process may be about to lock it"
        long_ago = time.time() - 100
        for folder in (litter, living):
            os.utime(folder, (long_ago, long_ago))
        with scratch_folder(tmp_path):
            assert not litter.exists()
            assert living.exists(), "of a process that lives"
    assert {path.name for path in tmp_path.iterdir()} == {".fxopt-scratch-of-mine", ".fxopt-scratch-abcdefgh"}


def test_of_two_builds_into_one_folder_one_is_there_whole(tmp_path):
    ready, failures = threading.Barrier(8), []

    def make(number: int) -> None:
        try:
            for _ in range(10):
                with staged(tmp_path / "out") as stage:
                    for name in ("a", "b"):
                        (stage.folder / name).write_text(str(number))
                    listed = dict.fromkeys(("a", "b"), "0" * 64)
                    (stage.folder / "manifest.json").write_text(str({"files": listed}).replace("'", '"'))
                    ready.wait(30)
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures
    assert (tmp_path / "out" / "a").read_text() == (tmp_path / "out" / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ---- signals -------------------------------------------------------------------------------------------------------


_LOADS_NATIVE_CODE = """
import importlib.machinery, signal, time

class Loader(importlib.machinery.ExtensionFileLoader):
    def create_module(self, spec):
        signal.raise_signal(signal.SIGINT)
        sum(range(1000))
        print(spec)

Loader("a", "a.so").create_module("whole")
time.sleep(5)
print("too far")
"""


@pytest.mark.slow
def test_ctrl_c_waits_for_a_native_module_that_is_being_loaded(monkeypatch, capsys, tmp_path):
    """Such a module runs Python while it is set up, and ends the process of an exception that it does not expect."""
    path = tmp_path / "mine.py"
    path.write_text(_LOADS_NATIVE_CODE)
    monkeypatch.setattr(sys, "argv", ["fxopt", "passes", "--load", str(path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    told = capsys.readouterr()
    assert (stop.value.code, told.out) == (130, "whole\n")
    assert "nothing was written" in told.err


WAITS = """
import os, signal, sys, threading, time
import torch, fxopt
from pathlib import Path
from fxopt.backend import find_backend
from fxopt.driver.lower import lower
from fxopt.target import host
Path("a").mkdir()
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
lower(fxopt.capture(net, (torch.randn(2, 3, 8, 8),)), find_backend("tvm"), host(), Path("a"))
read, write = os.pipe()
threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
threading.Timer(20, os.write, (write, b"x")).start()
begun = time.monotonic()
try:
    os.read(read, 1)
except KeyboardInterrupt:
    print(f"after {time.monotonic() - begun < 10}", flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_ctrl_c_interrupts_a_call_of_the_system_after_tvm_compiled(tmp_path):
    if fxopt.backend.find_backend("tvm").missing():
        pytest.skip("tvm is not installed")
    done = subprocess.run([sys.executable, "-c", WAITS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "after True" in done.stdout, done.stderr[-2000:]


# ---- processes and numbers -----------------------------------------------------------------------------------------

FORKS = """
import os, sys
import numpy as np, torch, fxopt
model = fxopt.load(sys.argv[1])
x = np.linspace(-1, 1, 2 * 512, dtype=np.float32).reshape(2, 512)
want = model(x)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(model(x), want) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    "backend",
    [
        "onnx(threads=2)",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("tvm(threads=2)", "openvino(threads=2)", "eager")),
    ],
)
def test_an_artifact_runs_in_a_process_that_was_forked(backend, large, tmp_path):
    if reason := fxopt.backend.find_backend(backend).missing():
        pytest.skip(reason)
    build(Recipe(model=str(large / "net.pt2"), backend=backend), tmp_path / "out", measure=False)
    command = [sys.executable, "-c", FORKS, str(tmp_path / "out")]
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("backend", ["onnx", "openvino", "tvm", "eager"])
def test_nan_comes_out_where_eager_has_it_or_the_report_says_not(backend, tmp_path):
    if reason := fxopt.backend.find_backend(backend).missing():
        pytest.skip(reason)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(2, 3, 8, 8)
    fxopt.save_program(fxopt.capture(net, (x,)), tmp_path / "net.pt2")
    report = build(Recipe(model=str(tmp_path / "net.pt2"), backend=backend), tmp_path / "out", measure=False)
    x[0, 1, 4, 4] = float("nan")
    got, want = fxopt.load(tmp_path / "out")(x.numpy()), net(x).detach().numpy()
    said = any("NaN in the inputs" in note for note in report.backend.get("notes", []))
    assert said == (not np.array_equal(np.isnan(got), np.isnan(want)))
    assert not np.isnan(got[1]).any(), "the other example is as without it"
