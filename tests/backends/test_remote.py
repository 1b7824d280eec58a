"""Devices over the network: what is built for one is run and timed there, and a device that fails in any way is told of."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import network
from torch import nn

import fxopt
from fxopt import capture
from fxopt.backend import find_backend
from fxopt.backends.remote.address import Address
from fxopt.backends.remote.device import RpcDevice
from fxopt.backends.remote.message import pack, unpack
from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm.compile import choose_tiles
from fxopt.backends.tvm.frontend.from_program import import_program
from fxopt.backends.tvm.machine.processor import processor_of
from fxopt.backends.tvm.tiling.task import Choices
from fxopt.backends.tvm.tuning.database import Database
from fxopt.backends.tvm.tuning.search import search
from fxopt.cli.render import bench_table, difference_table
from fxopt.driver.budget import Budget
from fxopt.driver.build import build
from fxopt.driver.build_targets import build_several
from fxopt.driver.lower import lower
from fxopt.driver.profile import profile
from fxopt.driver.recipe import Recipe
from fxopt.errors import BackendError, DeviceError, UsageError
from fxopt.runtime.bench import bench
from fxopt.runtime.device import device_of, find_device
from fxopt.target import Target
from fxopt.target.detect import host
from fxopt.workload import Workload

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)

_SERVE = "from fxopt.backends.remote import service\n{before}\nfrom fxopt.cli.main import main; main()"


class Server:
    """``fxopt serve`` in a process group of its own; ``before`` is run in it first, to make it misbehave."""

    def __init__(self, address: str, log: Path, before: str = "") -> None:
        self.address, self.log = address, log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVE.format(before=before), "serve", address],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> Server:
        end = time.monotonic() + 60
        while "serving at" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path):
    """Start devices, of this machine's kind, which end with the test."""
    servers: list[Server] = []

    def started(address: str | None = None, before: str = "") -> Server:
        servers.append(Server(address or network.free_address(), tmp_path / f"log{len(servers)}", before))
        return servers[-1].wait()

    yield started
    for server in servers:
        server.kill()


_EMULATED = "facts = service.VERBS['facts']\nservice.VERBS['facts'] = lambda _: ({**facts(_)[0], 'emulated': True}, [])"


def _for_all(log: Path, before: str = "") -> Iterator[Server]:
    made = Server(network.free_address(), log, before).wait()
    yield made
    find_device(made.address).rest()
    made.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One device for all tests that leave it as it is."""
    yield from _for_all(tmp_path_factory.mktemp("server") / "log")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The same, which says of itself that it is emulated."""
    yield from _for_all(tmp_path_factory.mktemp("emulated") / "log", _EMULATED)


@pytest.fixture
def tracker():
    with network.tracker() as address:
        yield address


def _at(server: Server, **changes) -> Target:
    return dataclasses.replace(host(), name="board", address=server.address, **changes)


@functools.cache
def _captured(channels: int):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 4, 3))
    return capture(layers.eval(), (torch.randn(1, 3, 12, 12),))


def _small(channels: int = 8):
    return _captured(channels).copy()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A small network, built by ONNX Runtime for a device of this machine's kind."""
    folder = tmp_path_factory.mktemp("small")
    lower(_small(), find_backend("onnx"), host(), folder)
    return folder


def small_net() -> Workload:
    """A network without data."""
    images = torch.randn(1, 3, 12, 12)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    return Workload(name="small", model=lambda: net, inputs=lambda: ((images,), {}))


# ---- addresses and messages ----------------------------------------------------------------------------------------


def test_addresses_are_read():
    assert Address.parse("rpc://10.0.0.2") == Address("10.0.0.2", 9090)
    assert Address.parse("rpc://pi.local:80") == Address("pi.local", 80)
    assert Address.parse("tracker://10.0.0.2:9190/pi-4") == Address("10.0.0.2", 9190, "pi-4")


@pytest.mark.parametrize("text", ["tracker://h:1", "rpc://h/pi", "rpc://", "rpc://h:port", "rpc://h:1:2"])
def test_what_is_no_address_comes_with_examples(text):
    with pytest.raises(UsageError, match="is no address of a device\n  give rpc://HOST:PORT"):
        find_device(text)


def test_a_scheme_that_nobody_registered_is_refused():
    with pytest.raises(UsageError, match=r"'ssh://pi' is no address of a device; addresses are like rpc://"):
        find_device("ssh://pi")


def test_messages_come_back_as_they_were():
    arrays = [np.arange(6, dtype=np.int8).reshape(2, 3), np.float32(1.5), np.zeros((0, 4)), np.array([True, False])]
    values, found = unpack(pack({"a": [1, "ü"], "values": None}, arrays))
    assert values == {"a": [1, "ü"], "values": None}
    for want, got in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(got, want)
        assert (got.dtype, got.shape) == (np.asarray(want).dtype, np.shape(want))


@pytest.mark.parametrize(
    "data", [b"", b"garbage", pack({"a": 1})[:-30], pack({"a": 1}).replace(b'"a"', b"\xff\xff\xff")]
)
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(ValueError, match=r"."):
        unpack(data)


# ---- a device that does what it should -----------------------------------------------------------------------------


def test_a_device_says_what_it_is(server):
    facts = find_device(server.address).facts()
    assert (facts["triple"], facts["cores"]) == (host().triple, host().cores)
    assert set(facts["features"]) == host().features
    assert facts["emulated"] is False
    assert facts["versions"]["fxopt"]


@pytest.mark.parametrize("backend", ["onnx", "tvm"])
def test_what_is_built_for_a_device_runs_there(backend, server, tmp_path):
    program = _small()
    (tmp_path / "a").mkdir()
    _, there = lower(program, find_backend(backend), _at(server), tmp_path / "a")
    assert there.device is find_device(server.address)
    here = fxopt.load(tmp_path / "a")
    assert here.device is None
    for batch in (1, 3):
        x = torch.randn(batch, 3, 12, 12)
        np.testing.assert_allclose(there(x), program(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fxopt.load(tmp_path / "a", on=server.address)(x), here(x), rtol=1e-6)


@pytest.mark.slow
def test_a_build_is_judged_and_timed_there(server, tmp_path):
    target = tmp_path / "board.toml"
    values = _at(server).to_dict() | {"memory": 10**9}
    target.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    recipe = Recipe("digits", ("fold_batch_norm",), "onnx", str(target), budget=Budget(latency_ms=10_000.0))
    report = build(recipe, tmp_path / "out")
    assert report.device["address"] == server.address
    assert report.agreement.relative_error < 1e-3
    assert report.after.metric == pytest.approx(0.991, abs=0.01)
    assert report.after.latency.median_ms > 0
    assert report.after.peak_memory_bytes > 10**7
    assert report.missed == []
    assert report.eager is None, "it did not run there"


@pytest.mark.slow
def test_the_fastest_is_chosen_there(server, tmp_path):
    target = tmp_path / "board.toml"
    target.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in _at(server).to_dict().items()))
    recipe = Recipe("test_remote:small_net", (), "fastest(among=('onnx', 'tvm'))", str(target))
    report = build(recipe, tmp_path / "out", measure=False)
    timed = [row for row in report.choice.tried if row.latency]
    assert len(timed) >= 3
    assert {row.backend.split("(")[0] for row in timed} == {"onnx", "tvm"}


def test_an_error_there_is_told_with_the_place(server, artifact):
    there = fxopt.load(artifact, on=server.address)
    with pytest.raises(DeviceError, match=rf"on the device at {server.address}: ONNX Runtime refused the inputs"):
        there.runner([np.zeros((1, 5, 2, 2), np.float32)])
    assert there(torch.zeros(1, 3, 12, 12)).shape == (1, 4, 10, 10), "it still serves"


def test_what_an_emulated_device_takes_is_not_shown(emulated, artifact):
    (row,) = bench([artifact], on=emulated.address)
    assert row["emulated"]
    assert not {"latency", "ratio"} & set(row)
    assert row["peak_memory_bytes"] > 10**7
    assert "emulated" in str(bench_table([row]).caption)


@pytest.mark.slow
def test_a_profile_is_taken_there_and_not_of_an_emulated_device(server, emulated, tmp_path):
    fxopt.save_program(_small(), tmp_path / "small.pt2")
    build(Recipe(str(tmp_path / "small.pt2"), (), "onnx"), tmp_path / "out", measure=False)
    here, there = profile(tmp_path / "out"), profile(tmp_path / "out", on=server.address)
    assert there.on == server.address
    assert [(layer.name, layer.op) for layer in there.layers] == [(layer.name, layer.op) for layer in here.layers]
    assert all(layer.ms > 0 for layer in there.layers if layer.macs)
    with pytest.raises(DeviceError, match="is emulated") as caught:
        profile(tmp_path / "out", on=emulated.address)
    assert "real one" in caught.value.way_out


# ---- another machine than the target says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"triple": "aarch64-linux-gnu", "features": frozenset({"neon"})}, "is built for aarch64, and it is "),
        ({"features": host().features | {"neon-i8mm"}}, "is built for neon-i8mm, which it lacks"),
    ],
)
def test_a_target_that_the_device_is_not_is_refused(change, words, server):
    with pytest.raises(DeviceError, match=words):
        device_of(_at(server, **change))


def test_what_is_for_another_machine_is_built_and_not_run(tmp_path):
    other = Target("other", "aarch64-linux-gnu", features=frozenset({"neon"}))
    if Tvm().cannot_build(other):
        pytest.skip(str(Tvm().cannot_build(other)))
    (tmp_path / "a").mkdir()
    _, built = lower(_small(), Tvm(), other, tmp_path / "a")
    assert "aarch64" in built.elsewhere
    with pytest.raises(
        BackendError, match=r"was built for other: machine code of aarch64(.|\n)*give the target its address"
    ):
        built(torch.zeros(1, 3, 12, 12))
    with pytest.raises(BackendError, match=r"was built for other(.|\n)*rpc://"):
        fxopt.load(tmp_path / "a")


def test_another_tvm_there_is_refused(server, monkeypatch):
    import importlib.metadata

    find_device(server.address).rest()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.99" if name == "apache-tvm" else real(name))
    with pytest.raises(
        DeviceError, match=r"has TVM 0\.27.*, and this machine 0\.99(.|\n)*pip install apache-tvm==0\.99"
    ):
        RpcDevice(server.address).facts()


# ---- devices that fail ---------------------------------------------------------------------------------------------


def test_nobody_there():
    with pytest.raises(DeviceError, match=r"no device can be reached at 127\.0\.0\.1:9: (.|\n)*`fxopt serve`"):
        RpcDevice("rpc://127.0.0.1:9").facts()
    with pytest.raises(DeviceError, match=r"no tracker can be reached at 127\.0\.0\.1:9: (.|\n)*rpc_tracker"):
        RpcDevice("tracker://127.0.0.1:9/pi").facts()


def test_something_else_there():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def chatter():
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=chatter, daemon=True).start()
        with pytest.raises(DeviceError, match="answers, but not as TVM's device does"):
            RpcDevice(f"rpc://127.0.0.1:{listening.getsockname()[1]}").facts()


@pytest.mark.slow
def test_a_device_that_was_lost_is_connected_to_again(start, artifact):
    server = start()
    there = fxopt.load(artifact, on=server.address)
    x = torch.zeros(1, 3, 12, 12)
    before = there(x)
    server.kill()
    with pytest.raises(DeviceError, match="no device can be reached"):
        there(x)
    start(server.address)
    np.testing.assert_array_equal(there(x), before)


_MISBEHAVE = {
    "garbage": ("answers 'run' with .* no message", "lambda arrays, name: 1/0", "service.pack = lambda *a: b'junk'"),
    "crash": ("was lost twice at the question 'run'", "lambda arrays, name: os.abort()", ""),
    "hang": ("was lost twice at the question 'run': no answer within 3 s", "lambda arrays, name: time.sleep(99)", ""),
}


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=[pytest.mark.slow] * (how != "garbage")) for how in _MISBEHAVE]
)
def test_a_device_that_misbehaves_is_told_of_and_serves_on(how, start, artifact):
    words, run, more = _MISBEHAVE[how]
    if more:
        run = f"lambda arrays, name: (setattr(service, 'pack', lambda *a: b'junk'), {run})"
    server = start(before=f"import os, time\nservice.VERBS['run'] = {run}")
    device = RpcDevice(server.address, patience=3.0 if how == "hang" else 60.0)
    manifest = json.loads((artifact / "manifest.json").read_text())
    runner = device.open(artifact, manifest["backend"])
    with pytest.raises(DeviceError, match=words):
        runner([np.zeros((1, 3, 12, 12), np.float32)])
    device.rest()
    assert RpcDevice(server.address).facts()["cores"] == host().cores, "the next session is served"


# ---- trackers and tuning -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tracker_without_such_a_device_names_those_it_has(tracker, start):
    start(f"{tracker}/pi")
    assert RpcDevice(f"{tracker}/pi").facts()["cores"] == host().cores
    with pytest.raises(DeviceError, match=r"knows no device with the key 'po'; keys of devices there: pi"):
        RpcDevice(f"{tracker}/po").facts()


def _tune(address: str, path: Path, trials: int, seconds: float = 120.0) -> Database:
    backend = Tvm(database=str(path), trials=trials)
    target = dataclasses.replace(host(), name="board", address=address)
    backend.tune(_small(32), target, seconds)
    return _database(path, target)


def _database(path: Path, target: Target) -> Database:
    processor = processor_of(target)
    return Database(path, processor, processor.cores)


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_tiles_are_timed_on_the_device(server, tmp_path):
    find_device(server.address).facts()  # which holds it until the search needs it
    found = _tune(server.address, tmp_path / "t.jsonl", 6)
    assert len(found.tiles()) == 2
    rows = _lines(tmp_path / "t.jsonl")
    assert len(rows) == 6
    assert not [row for row in rows if "failed" in row]


@pytest.mark.slow
def test_a_tuning_run_survives_that_its_device_is_killed_and_started_again(start, tmp_path):
    server = start()
    path = tmp_path / "t.jsonl"

    def disturb():
        while len(_lines(path)) < 4:
            time.sleep(0.05)
        server.kill()
        start(server.address)

    thread = threading.Thread(target=disturb)
    thread.start()
    _tune(server.address, path, 12)
    thread.join()
    rows = _lines(path)
    assert len(rows) == 12
    assert sum("failed" in row for row in rows) <= 1


@pytest.mark.slow
def test_without_its_device_tuning_ends_with_what_it_has(start, tmp_path):
    server = start()
    path = tmp_path / "t.jsonl"

    def disturb():
        while len(_lines(path)) < 3:
            time.sleep(0.05)
        server.kill()

    thread = threading.Thread(target=disturb)
    thread.start()
    target = dataclasses.replace(host(), name="board", address=server.address)
    database, choices = _database(path, target), Choices(processor_of(target))
    choose_tiles(import_program(_small(32)), choices)
    with pytest.warns(UserWarning, match=r"tuning lost a device: no device can be reached"):
        search(choices, database, 1, 300.0, 500, 0, Address.parse(server.address), away=2.0)
    thread.join()
    assert 3 <= len(_lines(path)) < 500


@pytest.mark.slow
def test_two_devices_behind_a_tracker_share_the_trials(tracker, start, tmp_path):
    servers = [start(f"{tracker}/pi") for _ in range(2)]
    _tune(f"{tracker}/pi", tmp_path / "t.jsonl", 12)
    assert len(_lines(tmp_path / "t.jsonl")) == 12
    for server in servers:
        assert "a session with" in server.log.read_text(), "each had a part"


# ---- several targets -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_recipe_for_several_targets_differs_where_it_should(tmp_path):
    from rich.console import Console

    recipe = Recipe("digits", ("fold_batch_norm", "quantize(images=32)"), "onnx")
    shown = []
    targets = ["x86_64_v3", "raspberry_pi_4"]
    reports = build_several(recipe, targets, tmp_path / "out", lambda name, report: shown.append(name), measure=False)
    assert shown == targets
    files = [(tmp_path / "out" / name / "model.onnx").read_bytes() for name in targets]
    assert files[0] != files[1], "the range of weights is another where products are added in 16 bits"
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(difference_table(reports))
    text = console.export_text()
    assert re.search(r"int8 weights.*128 at most.*full range", text, re.DOTALL)


def test_a_target_that_fails_keeps_no_other_from_being_built(tmp_path):
    recipe = Recipe("test_remote:small_net", (), "openvino")
    with pytest.raises(BackendError, match=r"built for host\nfor riscv64: "):
        build_several(recipe, ["host", "riscv64"], tmp_path / "out", lambda name, report: None, measure=False)
    assert (tmp_path / "out" / "host" / "manifest.json").is_file()
    with pytest.raises(UsageError, match="two targets have the name 'host'"):
        build_several(recipe, ["host", "host"], tmp_path / "out", lambda name, report: None)
