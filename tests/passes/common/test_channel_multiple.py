"""The multiple that a step cost leads to, found without a clock, and through a backend that only sleeps."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fxopt.backend import Backend
from fxopt.errors import BackendError
from fxopt.passes.common.channel_multiple import CANDIDATES, channel_multiple, granularity
from fxopt.target import Target
from fxopt.target.detect import host

pytestmark = pytest.mark.usefixtures("one_thread", "brief_timing")


def _blocks(size: int, overhead: float = 3.0, noise: float = 0.0):
    chance = random.Random(0)

    def costs(width: int) -> tuple[float, float, float]:
        each = [overhead + math.ceil(w / size) * size for w in (width, 32, 64)]
        a, b, c = (cost * (1 + chance.uniform(0, noise)) for cost in each)
        return a, b, c

    return costs


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_multiple_is_the_size_of_the_blocks(size, noise):
    assert granularity(_blocks(size, noise=noise)) == size


def test_blocks_so_small_that_filling_them_hardly_pays_come_out_smaller():
    assert granularity(_blocks(4)) in (2, 4)
    assert granularity(_blocks(2)) in (1, 2)


def test_where_cost_is_in_proportion_any_number_does():
    assert granularity(_blocks(1)) == 1


def test_a_slow_kernel_for_odd_widths_is_seen_too():
    assert granularity(lambda w: ((w if w % 8 == 0 else 3 * w), 32, 64)) == 8


def test_what_looked_slow_once_is_timed_again():
    asked: list[int] = []

    def costs(width: int) -> tuple[float, float, float]:
        asked.append(width)
        return width * (2.0 if asked.count(width) == 1 else 1.0), 32.0, 64.0

    assert granularity(costs) == 1
    assert asked == [36, 36, 33, 33]


def test_no_multiple_follows_from_a_width_that_costs_nothing():
    assert granularity(lambda w: (1.0, 1.0, 1.05)) is None


@dataclasses.dataclass(frozen=True)
class Sleeps(Backend):
    """Takes as long as its blocks of channels are many."""

    name: ClassVar[str] = "sleeps"
    block: int = 16
    builds: ClassVar[list[int]] = []

    def build(self, program: Any, target: Target, out: Path) -> dict[str, Any]:
        width = next(iter(program.find("aten.conv2d"))).meta["val"].shape[1]
        self.builds.append(width)
        if self.block == 0:
            raise BackendError("no kernels here")
        (out / "seconds.json").write_text(json.dumps(math.ceil(width / self.block) * self.block * 5e-5))
        return {}

    def load(self, folder: Path, manifest: dict[str, Any]) -> Any:
        seconds = json.loads((folder / "seconds.json").read_text())

        def run(arrays: list[Any]) -> list[Any]:
            time.sleep(seconds)
            return [np.zeros(o.example, np.float32) for o in manifest.outputs]

        return run


@pytest.fixture
def sleeps(monkeypatch, registering):
    registering("backend", "sleeps", Sleeps)
    monkeypatch.setattr(Sleeps, "builds", [])
    return Sleeps


def test_built_layers_are_timed_and_the_answer_is_kept(sleeps):
    found = channel_multiple(host(), sleeps())
    assert found.value == 16
    assert found.how == f"measured on {host().name} with sleeps"
    built = list(sleeps.builds)
    assert built == [32, 64, 36, 40, 48]
    assert channel_multiple(host(), sleeps()) == found
    assert sleeps.builds == built


def test_what_cannot_be_measured_follows_a_rule_and_says_so(sleeps):
    away = Target(name="board", triple="aarch64-linux-gnu", features=frozenset({"neon"}))
    assert channel_multiple(away, sleeps()).value == 8
    assert "by rule, neon: 'board' is not this machine: its triple" in channel_multiple(away, sleeps()).how
    assert "no backend" in channel_multiple(host(), None).how
    assert channel_multiple(host(), None).value in CANDIDATES
    amx = Target(name="server", triple="x86_64-linux-gnu", features=frozenset({"avx2", "avx512f", "amx-int8"}))
    assert channel_multiple(amx, None).value == 32
    assert channel_multiple(Target(name="tiny", triple="riscv64"), None).value == 4
    assert not sleeps.builds


def test_a_backend_that_does_not_build_the_layers_is_named(sleeps):
    found = channel_multiple(host(), sleeps(0))
    assert found.how.startswith("by rule, ")
    assert "sleeps(block=0) did not build" in found.how
    assert "no kernels here" in found.how
