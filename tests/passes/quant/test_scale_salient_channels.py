"""scale_salient_channels: its factors against numpy, its numbers against torch's module, and what it brings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fxopt import Pipeline, Workload, capture
from fxopt.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, BLOCK = 32, 16
AWQ = f"scale_salient_channels(block={BLOCK})"


class _Net(nn.Module):
    """A norm that two linears read, and a third behind relu; some channels are far larger than others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 24), nn.Linear(WIDTH, 24)
        self.c = nn.Linear(24, 8)
        with torch.no_grad():
            self.norm.weight.copy_(torch.logspace(-1, 1, WIDTH)[torch.randperm(WIDTH)])
            self.norm.bias.normal_()
        self.eval()

    def forward(self, x):
        y = self.norm(x)
        return self.c(torch.relu(self.a(y)) + torch.relu(self.b(y)))


class _Data:
    metric = "none"

    def __init__(self, count: int = 96) -> None:
        self.x = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def batches(self, split, *, batch_size, seed=None):
        for rows in self.x.split(batch_size):
            yield (rows.float(),), torch.zeros(len(rows))

    def evaluate(self, model, split="test"):
        return 0.0


def _run(net, passes, data=None):
    x = torch.randn(4, WIDTH)
    program = capture(net, (x,))
    workload = Workload(name="net", model=lambda: net, inputs=lambda: ((x,), {}), data=data or _Data())
    return Pipeline.parse(passes).run(program, workload=workload)


def _round(weight: np.ndarray) -> np.ndarray:
    """To 4 bits in blocks: the largest of a block becomes -8, if that clips none of the other sign."""
    real = np.empty_like(weight)
    for i in range(len(weight)):
        for j in range(0, weight.shape[1], BLOCK):
            block = weight[i, j : j + BLOCK]
            most = block[np.abs(block).argmax()]
            other = np.abs(block[np.sign(block) != np.sign(most)]).max(initial=0)
            scale = float(np.float32(max(abs(most) / 8, other / 7) * -np.sign(most)))
            real[i, j : j + BLOCK] = np.clip(np.rint(block / scale), -8, 7) * scale
    return real


def _factors(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Lin et al. 2023, eq. 4 and 5, for all that read x."""
    tried = []
    for step in range(20):
        s = np.abs(x).mean(0) ** (step / 20)
        s = s / np.sqrt(s.max() * s.min())
        lost = sum((((_round((w * s).astype(np.float32).astype(float)) / s - w) @ x.T) ** 2).sum() for w in weights)
        tried.append((lost, step, s))
    return min(tried, key=lambda t: t[:2])[2]


def test_factors_are_those_of_the_paper_and_the_norm_absorbs_them():
    net = _Net()
    with torch.no_grad():
        x = net.norm(_Data().x.float()).double().numpy()
    old = {name: t.detach().double().numpy() for name, t in net.state_dict().items()}
    s = _factors(x, [old["a.weight"], old["b.weight"]])
    assert s.max() / s.min() > 2
    outcome = _run(net, AWQ)
    new = {name: t.detach().double().numpy() for name, t in outcome.program.tensors().items()}
    np.testing.assert_allclose(new["norm.weight"], old["norm.weight"] / s, rtol=1e-5)
    np.testing.assert_allclose(new["norm.bias"], old["norm.bias"] / s, rtol=1e-5)
    ratio = new["a.weight"] / old["a.weight"] / s  # rows are divided by what c reads of them
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5)
    assert outcome.steps[0].findings.error is not None


def test_no_output_changes_and_sums_of_two_branches_share_their_factors():
    net = _Net().double()
    outcome = Pipeline.parse(AWQ).run(
        capture(net, (torch.randn(4, WIDTH, dtype=torch.float64),)),
        workload=Workload(name="net", model=lambda: net, inputs=lambda: ((), {}), data=_Data()),
        watchers=(),
    )
    other = torch.randn(9, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(outcome.program(other), net(other), rtol=1e-10, atol=1e-10)
    ratios = [outcome.program.tensors()[f"{name}.weight"] / net.get_parameter(f"{name}.weight") for name in "ab"]
    rows = [(ratio / ratio[:1]).mean(1) for ratio in ratios]
    torch.testing.assert_close(rows[0], rows[1])
    assert outcome.steps[0].changed


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_rounded_weights_lose_less(rounding):
    net, fresh = _Net(), torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(8))
    rounded = f"quantize_weights(block={BLOCK}, rounding='{rounding}', images=96)"
    with torch.no_grad():
        want = net(fresh)
        lost = [(_run(net, p).program(fresh) - want).square().mean() for p in (rounded, f"{AWQ}, {rounded}")]
    assert lost[1] < 0.8 * lost[0]


def test_what_has_no_absorber_and_bad_data_are_told():
    net = nn.Sequential(nn.Linear(WIDTH, 8))
    assert any("comes from an input" in skip.reason for skip in _run(net, AWQ).steps[0].skips)
    data = _Data()
    data.x[5, 2] = torch.inf
    with pytest.raises(DataError, match="NaN or infinity"):
        _run(_Net(), AWQ, data)
