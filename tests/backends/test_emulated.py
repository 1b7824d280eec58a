"""An aarch64 system, emulated: built here, uploaded, run there with the same numbers, tuned there; and as the guide says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import network
from torch import nn

import fxopt
from fxopt import capture
from fxopt.backends.tvm import Tvm
from fxopt.driver.budget import Budget
from fxopt.driver.build import build
from fxopt.driver.recipe import Recipe
from fxopt.errors import DeviceError, UsageError
from fxopt.runtime.device import device_of, find_device
from fxopt.target import find_target

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

if reason := Tvm().missing() or Tvm().cannot_build(find_target("raspberry_pi_5")):
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture
def start(emulated_root, tmp_path):
    """Switch devices on, which end with the test."""
    from emulated_device import EmulatedDevice

    with contextlib.ExitStack() as stack:
        numbers = iter(range(100))

        def started(address: str | None = None, cpu: str = "cortex-a76") -> EmulatedDevice:
            log = tmp_path / f"device{next(numbers)}.log"
            return stack.enter_context(
                EmulatedDevice(address or network.free_address(), root=emulated_root, cpu=cpu, log=log)
            )

        yield started


@pytest.fixture(scope="module")
def device(emulated_root, tmp_path_factory):
    """One device for all tests that leave it as it is."""
    from emulated_device import EmulatedDevice

    log = tmp_path_factory.mktemp("device") / "log"
    with EmulatedDevice(network.free_address(), root=emulated_root, log=log) as on:
        yield on
        find_device(on.address).rest()


def _target(folder: Path, name: str, address: str, **more) -> str:
    """A file that describes a board of that name, at an address."""
    values = find_target(name).to_dict() | {"address": address, "name": name, **more}
    (folder / f"{name}.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return str(folder / f"{name}.toml")


@pytest.mark.parametrize("backend", ["tvm", "onnx"])
def test_float_gives_the_numbers_of_eager_there(backend, device, tmp_path):
    target = _target(tmp_path, "raspberry_pi_5", device.address)
    report = build(
        Recipe("test_remote:small_net", (), backend, target, budget=Budget(latency_ms=1e6)), tmp_path / "out"
    )
    assert report.device["emulated"]
    assert report.agreement.relative_error < 1e-4
    assert "emulated" in report.not_timed, "what an emulator takes is no latency"
    assert report.missed == ["latency_ms: limit 1e+06, not measured"]
    assert report.after.peak_memory_bytes > report.memory.weights + report.memory.values


@pytest.mark.parametrize("backend", ["tvm", "onnx"])
def test_int8_gives_the_numbers_and_the_metric_of_eager_there(backend, device, tmp_path):
    target = _target(tmp_path, "raspberry_pi_5", device.address)
    report = build(Recipe("digits", ("fold_batch_norm", "quantize"), backend, target), tmp_path / "out", measure=False)
    assert report.device["emulated"]
    assert report.agreement.sqnr_db > 35
    assert report.after.metric == pytest.approx(report.before.metric, abs=0.005)
    if backend == "tvm":
        assert report.backend["integer_instruction"] == "sdot"


def test_a_processor_without_the_instructions_is_told_before_the_build(start, tmp_path):
    older = start(cpu="cortex-a72")
    with pytest.raises(
        DeviceError, match=r"aarch64 with neon; .*'raspberry_pi_5' is built for neon-dotprod, which it lacks"
    ):
        device_of(find_target(_target(tmp_path, "raspberry_pi_5", older.address)))
    device_of(find_target(_target(tmp_path, "raspberry_pi_4", older.address)))


def test_a_budget_of_latency_is_not_taken_from_an_emulator(device, tmp_path):
    target = _target(tmp_path, "raspberry_pi_5", device.address)
    with pytest.raises(UsageError, match="is emulated: what it takes says nothing"):
        build(Recipe("digits", ("prune_channels(latency='0.5x')",), "tvm", target), tmp_path / "out")


def _tune(target: str, path: Path, trials: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    Tvm(database=str(path), trials=trials).tune(capture(net, (torch.randn(1, 3, 12, 12),)), find_target(target), 600.0)


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_tuning_survives_that_the_device_is_killed_and_started_again(start, tmp_path):
    first, path = start(), tmp_path / "t.jsonl"
    target = _target(tmp_path, "raspberry_pi_5", first.address)
    find_device(first.address).facts()

    def disturb():
        while len(_rows(path)) < 10:
            time.sleep(0.1)
        first.kill()
        start(first.address)

    thread = threading.Thread(target=disturb)
    thread.start()
    _tune(target, path, 30)
    thread.join()
    rows = _rows(path)
    assert len(rows) == 30
    assert sum("failed" in row for row in rows) <= 1
    assert all(row["on"].startswith("emulated ") for row in rows), "no real board's build should take them"


def test_two_devices_behind_a_tracker_share_the_trials(start, tmp_path):
    """Prints the trials per second of one and of two, which pytest shows with -s; both are bound by this machine's cores."""
    rates, devices = [], []
    with network.tracker() as tracker:
        address = f"{tracker}/pi"
        target = _target(tmp_path, "raspberry_pi_5", address)
        for count in (1, 2):
            devices.append(start(address))
            path = tmp_path / f"{count}.jsonl"
            _tune(target, path, 4)  # the first pays for starting the processes
            begun = time.monotonic()
            _tune(target, path, 24)
            rates.append((len(_rows(path)) - 4) / (time.monotonic() - begun))
    print(f"trials per second: {rates[0]:.2f} with one device, {rates[1]:.2f} with two, {rates[1] / rates[0]:.2f}x")
    assert [len(_rows(tmp_path / f"{count}.jsonl")) for count in (1, 2)] == [28, 28]
    assert all("a session with" in device.log.read_text() for device in devices), "each had a part"


def test_the_guide_walks_a_raspberry_pi_through(start, emulated_root, tmp_path):
    """Each line of the section is typed: at the computer in a shell, on the board with the board's programs."""
    section = (ROOT / "docs" / "devices.md").read_text().split("## A Raspberry Pi, step by step\n")[1].split("\n## ")[0]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    assert sum(line.startswith("pi$ ") for line in lines) >= 3
    board, home = None, tmp_path / "home"
    home.mkdir()
    (tmp_path / "tools").mkdir()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path)}
    address = network.free_address()
    for line in lines:
        where, _, command = line.partition("$ ")
        command = command.replace("rpc://127.0.0.1:9090", address)  # the other end of the tunnel
        if command.startswith(("python3 -m venv", "pip ", "ssh -N ")):
            continue  # the root was made with what this installs, and the board is this machine
        if where == "pi" and command.startswith("fxopt serve"):
            board = start(address)
            continue
        cwd = home if where == "pi" else tmp_path
        if where == "pi":
            command = re.sub(r"^(\S*bin/run)", rf"qemu-aarch64-static -L {emulated_root} -cpu cortex-a76 \1", command)
        if command.startswith("scp "):
            command = re.sub(r"^scp (.*) \S+:(\S*)$", rf"cp \1 {home}/\2", command)
        done = subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert board is not None
    images = np.load(tmp_path / "images.npy")
    here = fxopt.load(tmp_path / "build" / "pi", on=address)(images)
    find_device(address).rest()
    np.testing.assert_allclose(np.load(home / "results" / "output0.npy"), here, rtol=1e-4, atol=1e-4)
