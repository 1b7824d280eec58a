"""The backend that chooses: what it tries, what keeps a candidate out, and an artifact that knows nothing of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import fxopt
from fxopt import Workload, capture, registry
from fxopt.backend import Backend, find_backend
from fxopt.backend.quant_policy import Policy
from fxopt.backends.eager import Eager
from fxopt.backends.fastest import Fastest
from fxopt.backends.onnx import Onnx
from fxopt.backends.openvino import Openvino
from fxopt.driver.budget import Budget
from fxopt.driver.build import build
from fxopt.driver.lower import lower
from fxopt.driver.plan import resolve
from fxopt.driver.recipe import Recipe
from fxopt.driver.report import BackendChoice, BuildReport, TriedCandidate
from fxopt.driver.successive_halving import race, ranked
from fxopt.errors import BackendError, UnknownNameError, UsageError
from fxopt.models.images import LabelledImages
from fxopt.runtime.isolated import call, fails_alone
from fxopt.runtime.timing import Timing, interleave
from fxopt.support.fresh_process import fresh_process
from fxopt.target.detect import host, not_here

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class _Slow(Eager):
    """Eager after a pause; the noise is added to every output."""

    name: ClassVar[str] = "slow"
    ms: float = 0.0
    noise: float = 0.0
    plain: bool = False

    def quant_policy(self, target):
        return Policy("never" if self.plain else "always")

    def variants(self) -> tuple[Backend, ...]:
        return (self, replace(self, noise=0.02)) if self.noise == 0.01 else (self,)

    def build(self, program, target, out):
        codes = program.find("quantized_decomposed.quantize_per_tensor")
        return super().build(program, target, out) | {"codes": len(list(codes))}

    def load(self, folder, manifest) -> Callable:
        run = super().load(folder, manifest)

        def slowly(arrays):
            time.sleep(self.ms / 1000)
            return [out * np.float32(1 + self.noise) if out.dtype == np.float32 else out for out in run(arrays)]

        return slowly


@dataclass(frozen=True)
class _Absent(_Slow):
    """Not installed."""

    name: ClassVar[str] = "absent"

    def missing(self):
        return "its runtime is not installed: pip install absent"


@dataclass(frozen=True)
class _Broken(_Slow):
    """A stranger's backend with a mistake in it."""

    name: ClassVar[str] = "broken"

    def build(self, program, target, out):
        raise KeyError("a stranger's mistake")


FORMS = ("", ", left in float")


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.fixture
def names(registering):
    """Backends and a workload registered for one test."""
    torch.manual_seed(0)
    net, images = _Net().eval(), torch.randn(40, 1, 6, 6)
    labels = net(images).argmax(1)
    splits = dict.fromkeys(("train", "validation", "test"), (images, labels))
    known = Workload(
        name="known", model=lambda: net, inputs=lambda: ((images[:1],), {}), data=LabelledImages(lambda: splits)
    )
    for cls in (_Slow, _Absent, _Broken):
        registering("backend", cls.name, cls)
    registering("workload", "known", known)
    registering("workload", "bare", replace(known, name="bare", data=None))
    return known


def _among(*texts: str) -> str:
    return str(Fastest(among=texts))


def _build(out: Path, *texts: str, passes=(), model="known", **limits) -> BuildReport:
    return build(Recipe(model, passes, _among(*texts), budget=Budget(**limits)), out, measure=False)


def _tried(report: BuildReport) -> dict[str, TriedCandidate]:
    return {row.candidate: row for row in report.choice.tried}


# ---- what is tried -------------------------------------------------------------------------------------------------


def test_every_registered_backend_is_tried_but_eager(names):
    found = {backend.name for backend in Fastest().candidates(host())}
    assert {"onnx", "openvino", "slow", "absent"} <= found
    assert not found & {"eager", "fastest"}


def test_eager_is_tried_where_nothing_else_is_installed(monkeypatch):
    for cls in (Onnx, Openvino):
        monkeypatch.setattr(cls, "missing", lambda self: "not there")
    monkeypatch.setattr(registry, "names", lambda kind: ["eager", "fastest", "onnx", "openvino"])
    tried = [backend.name for backend in Fastest().candidates(host())]
    stored = ["onnx"] * (2 if host().int8_saturates else 1)  # as int8, and as uint8 where that computes otherwise
    assert tried == [*stored, "openvino", "eager"]


def test_the_fastest_is_built_and_the_manifest_says_why(names, tmp_path):
    report = _build(tmp_path / "out", "slow(ms=15.0)", "slow(ms=2.0)", "absent", "broken", "slow(ms=6.0)")
    assert report.choice.chosen == "slow(ms=2.0)"
    assert re.fullmatch(r"[\d.]+ ms a call", report.choice.why)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["backend"] == "slow(ms=2.0)"
    assert BackendChoice(**manifest["choice"]) == report.choice
    rows = _tried(report)
    assert [name for name, row in rows.items() if row.latency][:2] == ["slow(ms=2.0)", "slow(ms=6.0)"]
    assert rows["slow(ms=15.0)"].latency.median_ms > 15
    assert "pip install absent" in rows["absent"].refused
    assert rows["broken"].refused == 'KeyError: "a stranger\'s mistake"'
    assert report.backend["text"] == "slow(ms=2.0)"


@pytest.mark.slow
def test_each_backend_quantizes_by_its_own_policy_and_keeps_the_program_in_float(names, tmp_path, monkeypatch):
    passes = ("quantize(images=8), clean_up",)
    report = _build(tmp_path / "out", "slow(plain=True)", "slow(noise=0.01)", passes=passes)
    rows = _tried(report)
    forms = [f"slow({option}){form}" for option in ("plain=True", "noise=0.01", "noise=0.02") for form in FORMS]
    assert sorted(rows) == sorted(forms)
    codes = {}
    for text in ("slow(plain=True)", "slow"):
        monkeypatch.setattr(
            "fxopt.driver.select_backend.ranked", lambda timings: [name for name in timings if "float" not in name]
        )
        codes[text] = _build(tmp_path / text, text, passes=passes).backend["codes"]
    assert codes == {"slow(plain=True)": 3, "slow": 5}, "inputs of the layers; the pool and the flattening between too"


def test_float_wins_where_integers_do_not_pay(names, tmp_path):
    """Eager computes what a Q/DQ op says one by one, so the program in float is faster."""
    report = _build(tmp_path / "out", "slow", passes=("quantize(images=8)",))
    assert report.choice.chosen == "slow, left in float"
    assert report.backend["codes"] == 0
    assert [step.pass_ for step in report.steps][-1] == "canonicalize_clamp"


# ---- what keeps a candidate out ------------------------------------------------------------------------------------


def test_other_numbers_are_refused_in_float_however_fast(names, tmp_path):
    report = _build(tmp_path / "out", "slow(noise=0.01)", "slow(ms=8.0)")
    assert report.choice.chosen == "slow(ms=8.0)"
    for name in ("slow(noise=0.01)", "slow(noise=0.02)"):
        assert re.search(r"off by 0\.0\d+ relative.*allowed 0\.001", _tried(report)[name].refused)


@pytest.mark.parametrize(("drop", "chosen"), [(0.5, r"slow\(noise=0\.0[12]\)"), (None, r"slow\(ms=8\.0\)")])
def test_fewer_bits_are_allowed_where_the_metric_judges_them(drop, chosen, names, tmp_path):
    report = _build(tmp_path / "out", "slow(noise=0.01)", "slow(ms=8.0)", metric_drop=drop)
    assert re.fullmatch(chosen, report.choice.chosen)  # the two with noise take equally long
    assert drop is None or 33 < report.agreement.sqnr_db < 41


@pytest.mark.slow
def test_a_metric_beyond_the_budget_keeps_the_fastest_out(names, tmp_path, monkeypatch):
    def evaluate(self, model, split="test"):
        x = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
        assert split in ("validation", "test")
        return 1.0 - 10 * float(np.abs(np.asarray(model(x)) / np.asarray(names.model()(x).detach()) - 1).max())

    monkeypatch.setattr(LabelledImages, "evaluate", evaluate)
    report = _build(tmp_path / "out", "slow(noise=0.01)", "slow(ms=8.0)", metric_drop=0.05)
    assert report.choice.chosen == "slow(ms=8.0)"
    rows = _tried(report)
    assert re.match(r"metric_drop: 0\.\d+, limit 0\.05, over by 0\.0", rows["slow(noise=0.01)"].refused)
    assert rows["slow(noise=0.02)"].metric == pytest.approx(0.8, abs=1e-3)
    assert "2 faster miss the budget" in report.choice.why
    assert report.missed == []


def test_a_recipe_that_quantizes_allows_noise_below_its_own(names, tmp_path):
    report = _build(tmp_path / "out", "slow(noise=1e-3)", "slow(noise=0.3)", passes=("quantize(images=8)",))
    rows = _tried(report)
    assert rows["slow(noise=0.001), left in float"].refused is None
    assert "allowed 0.001 relative or" in rows["slow(noise=0.3), left in float"].refused


def test_when_all_are_refused_every_reason_is_told(names, tmp_path):
    with pytest.raises(BackendError) as caught:
        _build(tmp_path / "out", "absent", "broken", "slow(noise=0.5)", "slow", file_bytes=10)
    told = str(caught.value)
    assert "every candidate is refused" in told
    for words in ("absent: its runtime", "broken: KeyError", "slow(noise=0.5): what", "slow: file_bytes:"):
        assert words in told
    assert not (tmp_path / "out").exists()


def test_without_any_backend_the_way_out_is_told(names, tmp_path):
    with pytest.raises(BackendError, match=r"no backend is installed:\n    absent: .* pip install absent"):
        _build(tmp_path / "out", "absent")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"triple": "aarch64-linux-gnu"}, r"its triple: aarch64-linux-gnu; here: "),
        ({"features": frozenset({"neon"})}, r"its features: neon; here: "),
        ({"cores": 999}, r"its cores: 999; here: \d"),
    ],
)
def test_another_device_cannot_be_measured_here(change, words):
    with pytest.raises(UsageError, match=words + r"(.|\n)*-t host, or name a backend"):
        Fastest().candidates(replace(host(), name="other", **change))
    assert not_here(replace(host(), name="same", cpu="known")) is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("fastest(among=('onxx',))", UnknownNameError),
        ("fastest(among=('onnx(treads=1)',))", UnknownNameError),
        ("fastest(among=('fastest',))", UsageError),
    ],
)
def test_what_is_misspelt_fails_before_any_work(text, error):
    with pytest.raises(error):
        resolve(Recipe("digits", backend=text))


def test_a_single_program_is_no_choice(tmp_path):
    with pytest.raises(BackendError, match="chooses a backend for a whole recipe"):
        find_backend("fastest").build(None, host(), tmp_path)


def _small(folder: Path) -> Path:
    lower(capture(nn.Linear(4, 2).eval(), (torch.randn(1, 4),)), Onnx(), host(), folder)
    return folder


def test_a_first_call_that_hangs_or_ends_the_process_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    folder = _small(tmp_path / "a")
    subprocess.run(fresh_process(call, str(folder), "onnx(threads=1)"), check=True)
    assert fails_alone(folder, Onnx(threads=1), 120.0) is None
    assert fails_alone(folder, Onnx(threads=1), 0.01) == "its first call takes longer than 0 s"
    (tmp_path / "sitecustomize.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert fails_alone(folder, Onnx(threads=1), 120.0) == "its first call ends the process by SIGABRT"


@pytest.mark.slow
def test_a_candidate_that_hangs_is_refused_and_another_is_built(tmp_path, monkeypatch):
    def hangs(folder, backend, seconds):
        return "its first call takes longer than 31 s" if backend.optimization_level == "all" else None

    monkeypatch.setattr("fxopt.driver.candidates.fails_alone", hangs)
    report = build(Recipe("digits", (), "fastest(among=('onnx(threads=1)',))"), tmp_path / "out", measure=False)
    assert report.choice.chosen == "onnx(threads=1, optimization_level='extended')"
    refused = [row.refused for row in report.choice.tried if row.refused]
    assert refused == ["its first call takes longer than 31 s"]


# ---- the race ------------------------------------------------------------------------------------------------------


def test_equally_fast_ones_keep_their_order_and_those_who_dropped_out_come_last():
    def timing(ms, blocks=11):
        return Timing((ms,) * blocks)

    timings = {"a": timing(1.02), "b": timing(1.0), "c": timing(0.9, 3), "d": timing(1.5), "e": timing(0.5, 1)}
    assert ranked(timings) == ["a", "b", "d", "c", "e"]
    assert ranked({"a": timing(1.05), "b": timing(1.0)}) == ["b", "a"]


def test_who_is_far_behind_drops_out_early():
    calls = dict.fromkeys("abc", 0)

    def run(name, ms):
        def call():
            calls[name] += 1
            time.sleep(ms / 1000)

        return call

    runs = {"a": run("a", 3), "b": run("b", 30), "c": run("c", 6)}
    timings = race(runs, lambda names, blocks: interleave({name: runs[name] for name in names}, blocks=blocks))
    assert [len(timings[name].blocks_ms) for name in "abc"] == [11, 3, 5]
    assert calls["b"] < calls["c"] < calls["a"]


# ---- options of the runtimes ---------------------------------------------------------------------------------------


def test_options_that_are_set_stay_in_the_variants(monkeypatch):
    monkeypatch.setattr("fxopt.backends.onnx.backend.usable_cores", lambda: 4)
    monkeypatch.setattr("fxopt.backends.openvino.backend.usable_cores", lambda: 4)
    monkeypatch.setattr("fxopt.backends.openvino.backend.native_precisions", lambda: ("f32", "bf16"))
    assert list(map(str, Onnx().variants())) == [
        "onnx", "onnx(threads=1)", "onnx(optimization_level='extended')", "onnx(threads=1, optimization_level='extended')",
    ]  # fmt: skip
    assert Onnx(threads=2, optimization_level="basic").variants() == (Onnx(threads=2, optimization_level="basic"),)
    assert list(map(str, Openvino(threads=2).variants())) == [
        "openvino(threads=2)",
        "openvino(threads=2, precision='bf16')",
    ]
    assert {b.threads for b in Openvino(precision="f16").variants()} == {None, 1}


def test_openvino_offers_the_precisions_of_the_processor():
    openvino = pytest.importorskip("openvino")
    told = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    offered = {backend.precision for backend in Openvino(threads=1).variants()}
    assert offered == {"f32"} | {name.lower().replace("fp", "f") for name in ("BF16", "FP16") if name in told}


# ---- with the real ones --------------------------------------------------------------------------------------------

_WITHOUT = """
import sys
sys.modules["torch"] = sys.modules[sys.argv[2]] = None
import numpy as np
import fxopt
print(fxopt.load(sys.argv[1])(np.zeros((3, 1, 6, 6), np.float32)).shape)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("brief_timing")  # the choice may be any
@pytest.mark.parametrize("passes", ["fold_constants", "quantize"])
def test_the_command_line_builds_what_loads_without_torch_and_without_the_choice(passes, names, tmp_path):
    program = fxopt.capture(names.model(), names.inputs()[0])
    fxopt.save_program(program, tmp_path / "net.pt2")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).standard_normal((16, 1, 6, 6)).astype(np.float32))
    command = ["build", "net.pt2", "-p", passes, "-b", "fastest", "-o", "out", "--calibrate", "images.npy"]
    command = [sys.executable, "-c", "from fxopt.cli.main import main; main()", *command, "--no-measure"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "chosen: " in done.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert re.match("onnx|openvino|tvm", manifest["backend"])
    assert manifest["recipe"]["backend"] == "fastest"
    assert {row["backend"].split("(")[0] for row in manifest["choice"]["tried"]} >= {"onnx", "openvino"}
    loaded = subprocess.run(
        [sys.executable, "-c", _WITHOUT, "out", Fastest.__module__],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == ["(3,", "4)"]
