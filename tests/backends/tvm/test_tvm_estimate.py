"""The cycles that a build estimates: what a search goes by where nothing can be timed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.backend.backend import ESTIMATED_CYCLES
from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm.compile import kernels_of
from fxopt.backends.tvm.frontend.from_program import import_program
from fxopt.backends.tvm.machine.processor import processor_of
from fxopt.backends.tvm.tiling.estimate import estimated_cycles
from fxopt.backends.tvm.tiling.task import Choices
from fxopt.driver.lower import legalized, lower
from fxopt.ir.cost import cost
from fxopt.target import find_target
from fxopt.testing import small_workload

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)

BACKEND = Tvm(threads=1, database="")


def net(width: int):
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, width, 3), nn.ReLU(), nn.Conv2d(width, 16, 3), nn.ReLU()]
    return capture(nn.Sequential(*layers).eval(), (torch.randn(2, 16, 24, 24),))


def chosen(program, name: str, *, winograd: bool) -> Choices:
    """The tiles by rule for a target, without the code of them."""
    target = find_target(name)
    choices = Choices(processor_of(target), {}, winograd=winograd)
    kernels_of(import_program(legalized(program, BACKEND, target)), choices)
    return choices


def estimate(program, name: str) -> float:
    """Cycles of the sums alone."""
    return estimated_cycles(chosen(program, name, winograd=False), 0)


def test_twice_the_channels_take_twice_the_cycles_and_vectors_half_as_long_twice():
    wide, narrow = net(128), net(64)
    for name in ("x86_64_v3", "x86_64_v4", "raspberry_pi_4"):
        assert estimate(wide, name) == pytest.approx(2 * estimate(narrow, name), rel=0.05)
    long, short = estimate(wide, "x86_64_v4"), estimate(wide, "x86_64_v3")
    assert short / long == pytest.approx(2, rel=0.15), "16 floats or 8; the fewer registers leave smaller tiles"


def test_cycles_are_no_fewer_than_the_multiply_adds_take():
    """Of one example: at most two vectors of multiply-adds a cycle, whatever the tiles."""
    program = net(64)
    for name, lanes in (("x86_64_v4", 16), ("x86_64_v3", 8), ("raspberry_pi_4", 4)):
        macs = cost(program).macs
        assert macs / lanes / 2 <= estimate(program, name) <= 2 * macs / lanes / 2


def test_channels_that_do_not_fill_a_vector_cost_as_much_as_those_that_do():
    """On sixteen lanes 40 channels are three vectors, on four lanes ten: what is best for one is not for the other."""
    odd, even = net(40), net(48)
    assert estimate(odd, "x86_64_v4") > 0.9 * estimate(even, "x86_64_v4")
    assert estimate(odd, "raspberry_pi_4") < 0.9 * estimate(even, "raspberry_pi_4")


def test_integers_are_estimated_by_their_own_instruction():
    """Four bytes of each lane at once, or two of them in three instructions where there is none for four."""
    program = net(64)
    work = small_workload(program)
    for name in ("x86_64_v3", "x86_64_vnni", "raspberry_pi_5"):
        where = {"workload": work, "target": find_target(name), "backend": BACKEND, "watchers": ()}
        small = Pipeline.parse("quantize(images=8)").run(program, **where).program
        assert estimate(program, name) / 6 < estimate(small, name) < estimate(program, name)


def test_a_build_tells_them_and_each_call_counts(tmp_path):
    program = net(16)
    target = find_target("x86_64_v3")
    manifest = lower(program, BACKEND, target, tmp_path, verified=False)[1].manifest
    alone = chosen(program, "x86_64_v3", winograd=True)
    assert manifest.facts[ESTIMATED_CYCLES] == pytest.approx(
        estimated_cycles(alone, manifest.facts["kernels"]), abs=1e4
    )
    assert estimated_cycles(alone, 5) > estimated_cycles(alone, 4)
