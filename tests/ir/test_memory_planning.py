"""The planned memory, against sizes counted by hand and what torch's own allocator holds."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from fxopt import Pipeline, capture
from fxopt.driver.build import build
from fxopt.driver.recipe import Recipe
from fxopt.ir.memory_planning import plan_memory
from fxopt.workload import find_workload

KB = 1000


def _plan(net: nn.Module, *shape: int):
    return plan_memory(capture(net.eval(), (torch.randn(*shape),)))


def test_a_chain_holds_two_neighbours():
    plan = _plan(nn.Sequential(nn.Linear(250, 500), nn.Linear(500, 100)), 1, 250)
    assert plan.weights == 4 * (250 * 500 + 500 + 500 * 100 + 100)
    assert plan.values == 4 * (250 + 500)
    assert plan.largest[0][1] == 4 * 500


def test_a_residual_stays_and_an_activation_takes_the_place_of_its_operand():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(250, 250), nn.Linear(250, 250)

        def forward(self, x):
            return x + self.b(torch.relu(self.a(x)))

    assert _plan(Net(), 1, 250).values == 3 * KB


def test_views_tied_weights_and_dynamic_sizes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(50, 50, bias=False)
            self.b = nn.Linear(50, 50, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x).reshape(-1, 5, 10).transpose(1, 2).flatten(1, 2).reshape(-1, 50))

    plan = _plan(Net(), 5, 50)
    assert plan.weights == 10 * KB
    assert plan.values <= 3 * KB


def test_codes_count_and_what_kernels_fuse_does_not():
    workload = find_workload("digits")
    program = workload.capture()
    folded = Pipeline.parse("fold_batch_norm").run(program, watchers=(), workload=workload).program
    codes = Pipeline.parse("quantize").run(folded, watchers=(), workload=workload).program
    plain, quantized = plan_memory(folded), plan_memory(codes)
    assert quantized.weights == pytest.approx(plain.weights / 4, rel=0.05)
    assert quantized.values == pytest.approx(plain.values / 4, rel=0.35)


class _Alive(fx.Interpreter):
    """Counts bytes of the values that torch has in memory after each node, views once."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.most, self._weights = 0, {t.untyped_storage()._cdata for t in module.state_dict().values()}

    def run_node(self, n):
        result = super().run_node(n)
        storages = {}
        for value in [*self.env.values(), result]:
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in self._weights:
                storages[value.untyped_storage()._cdata] = value.untyped_storage().nbytes()
        self.most = max(self.most, sum(storages.values()))
        return result


def test_it_is_what_torch_holds_but_for_what_is_fused():
    program = find_workload("torchvision:squeezenet1_1").capture()
    program = Pipeline.parse("fold_batch_norm").run(program, watchers=()).program
    running = _Alive(program.module)
    with torch.no_grad():
        running.run(*program.args)
    assert running.most * 0.45 <= plan_memory(program).values <= running.most * 1.01


def test_a_target_with_too_little_is_told_by_how_much_and_of_which_values(tmp_path):
    (tmp_path / "tiny.toml").write_text('triple = "aarch64-linux-gnu"\nmemory = 3_000_000\nflash = 100_000\n')
    report = build(Recipe("digits", (), "onnx", str(tmp_path / "tiny.toml")), tmp_path / "out", measure=False)
    memory, flash = report.missed
    needed = report.memory.weights + report.memory.values
    assert f"memory of tiny: {needed:,} bytes, limit 3,000,000, over by {needed - 3_000_000:,}" in memory
    assert "MB: %conv2d" in memory
    assert "models/nets.py:" in memory
    assert f"flash of tiny: {report.after.file_bytes:,} bytes, limit 100,000, over by" in flash
