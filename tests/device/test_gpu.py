"""On an accelerator: everything that runs graphs on data, beside the CPU. Run by tests/gpu.sh; skipped without one."""

import pytest
import torch
from cases.training import Plain, weights, workload

from fxopt import Pipeline
from fxopt.numerics.compute_device import find_compute_device
from fxopt.workload import find_workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="torch finds no accelerator on this machine"),
]

PASSES = [
    "finetune(epochs=1, precision='bf16-mixed')",
    "finetune(epochs=1, precision='16-mixed', accumulate=2)",
    "prune_channels(ratio=0.3, by='taylor'), distill(epochs=1, features='hint'), reestimate_batch_norm",
    "zero_channels(ratio=0.3, by='wanda', reconstruct=True)",
    "low_rank(ratio=0.5, data_aware=True), reconstruct",
    "quantize(calibration='mse', rounding='adaround')",
    "quantize_weights(rounding='gptq')",
    "train_quantized(epochs=1)",
    "train_supernet(epochs=1)",
]


@pytest.mark.parametrize("passes", PASSES)
def test_a_pass_runs_there_and_keeps_the_metric(passes):
    given = find_workload("digits")
    outcome = Pipeline.parse(passes).run(given.capture(), workload=given, device="auto")
    metric = [step.findings.metric for step in outcome.steps if step.findings.metric is not None][-1]
    assert metric > 0.8
    assert {tensor.device.type for tensor in outcome.program.tensors().values()} == {"cpu"}


def test_equal_seeds_give_equal_weights_there_and_nearly_those_of_the_cpu():
    given = workload(Plain)
    passes = Pipeline.parse("finetune(epochs=3, rate=0.02, batch_size=32)")
    first, again, here = (
        weights(passes.run(given.capture(), workload=given, device=device, watchers=()))
        for device in ("auto", "auto", "cpu")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.allclose(first[name], here[name], atol=1e-3) for name in first)


def test_a_batch_that_does_not_fit_is_run_in_parts():
    class Wide(Plain):
        def forward(self, x):
            return super().forward(x) + 0 * x.new_ones(len(x), size).exp().sum(1, keepdim=True)

    device = find_compute_device("auto")
    free = torch.accelerator.get_memory_info(torch.device(device))[0]
    size = free // (4 * 3 * 32)  # three such tensors of 32 examples are more than there is beside what is held
    given = workload(Wide)
    outcome = Pipeline.parse("finetune(epochs=1, batch_size=64)").run(
        given.capture(), workload=given, device=device, watchers=()
    )
    assert [choice.what for choice in outcome.steps[0].choices] == ["accumulate"]
