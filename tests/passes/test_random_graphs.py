"""Random small networks under random pipelines of all exact passes keep their outputs.

The oracle is the network itself, an ordinary nn.Module run by torch in float64, which no code of fxopt touches.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, capture, registry
from fxopt.numerics.error_metrics import relative_error
from fxopt.pass_manager.pass_base import Pass
from fxopt.testing import small_workload

BATCHES = (1, 4)

# One step of a network: name, and a number that chooses the variant. Every step takes and gives [N, C, 4, 4].
STEPS = (
    "conv_norm", "conv_norm", "grouped_norm", "transposed_norm", "norm_and_reader", "two_norms", "conv", "conv_again",
    "grouped", "depthwise", "transposed", "norm", "norm_twice", "affineless", "relu", "inplace_relu", "unary",
    "dropout", "identity", "residual", "cat", "split", "chunk_cat", "view", "permute", "linear", "scale_by_constant",
    "add_constants", "same_twice", "inplace_view", "clone", "slice", "write_slice", "flip", "softmax", "expand", "pool",
    "to_same",
)  # fmt: skip


class Random(nn.Module):
    """A network drawn as a list of steps; the outputs are the last value and up to two earlier ones."""

    def __init__(self, steps, extra, seed):
        super().__init__()
        self.steps, self.extra = steps, extra
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(self._layer(name, n) for name, n in steps)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.5)
                part.running_var.uniform_(0.5, 1.5)
                if part.affine:
                    nn.init.uniform_(part.weight, -1.5, 1.5)
                    nn.init.normal_(part.bias)
        self.register_buffer("constant", torch.randn(4, 1, 1))

    def _layer(self, name, n):
        if name in ("conv", "conv_again"):
            return nn.Conv2d(4, 4, 3, padding=1, bias=n % 2 == 0, padding_mode="zeros")
        if name in ("grouped", "depthwise"):
            return nn.Conv2d(4, 4, 3, padding=1, groups=2 if name == "grouped" else 4, bias=n % 2 == 0)
        if name == "transposed":
            return nn.ConvTranspose2d(4, 4, 3, padding=1, groups=1 + n % 2, bias=n % 3 == 0)
        if name in ("norm", "norm_twice", "affineless"):
            return nn.BatchNorm2d(4, affine=name != "affineless", eps=(1e-5, 1e-3)[n % 2])
        if name in ("conv_norm", "norm_and_reader"):
            return nn.Sequential(self._layer("conv", n), self._layer("norm", n))
        if name in ("grouped_norm", "transposed_norm"):
            return nn.Sequential(
                self._layer(name.removesuffix("_norm"), n), self._layer("affineless" if n % 4 else "norm", n)
            )
        if name == "two_norms":
            return nn.ModuleList([self._layer("conv", n), self._layer("norm", n), self._layer("norm", n + 1)])
        if name == "linear":
            return nn.Linear(4, 4, bias=n % 2 == 0)
        return nn.Dropout(0.5) if name == "dropout" else nn.Identity()

    def forward(self, x):
        values = [x]
        for (name, n), layer in zip(self.steps, self.layers, strict=True):
            values.append(self._step(name, n, layer, values[-1], values[n % len(values)]))
        outputs = [values[i % len(values)] for i in self.extra]
        return (values[-1], *outputs)

    def _step(self, name, n, layer, x, earlier):
        size = x.shape[0]
        match name:
            case "conv_again":
                return layer(layer(x).relu())
            case "norm_and_reader":
                y = layer[0](x)
                return layer[1](y) + y * 0.5
            case "two_norms":
                return layer[2](layer[0](layer[1](layer[0](x))))
            case "norm_twice":
                return layer(layer(x)) + x * 0.5
            case "relu":
                return F.relu(x)
            case "inplace_relu":
                return F.relu_(x * 1.0) if n % 2 else (x + 0).relu_()
            case "unary":
                return (torch.tanh, torch.sigmoid, F.hardswish, torch.neg, F.gelu, torch.abs)[n % 6](x)
            case "identity":
                return (x.reshape(size, 4, 4, 4), x[:], x.permute(0, 1, 2, 3), x.expand(size, 4, 4, 4), x * 1, x + 0)[
                    n % 6
                ]
            case "residual":
                return x + earlier
            case "cat":
                return torch.cat([x[:, :2], earlier[:, 2:]], 1)
            case "split":
                a, b = x.split([1, 3], 1)
                return torch.cat([b, a.clone().mul_(2)], 1)
            case "chunk_cat":
                return torch.cat(x.chunk(2, 1), 1)
            case "view":
                return x.view(size, 2, 2, 4, 4).transpose(1, 2).reshape(size, 4, 4, 4) if x.is_contiguous() else x
            case "permute":
                return x.permute(0, 1, 3, 2)
            case "linear":
                return layer(x)
            case "scale_by_constant":
                return x * (self.constant * 2 + torch.ones(4, 1, 1, dtype=x.dtype)) / 3
            case "add_constants":
                return x + (torch.arange(4, dtype=x.dtype).view(1, 4, 1, 1) * 0.25 - self.constant)
            case "same_twice":
                return torch.tanh(x) * torch.tanh(x) + torch.tanh(x)
            case "inplace_view":
                y = x.clone()
                y[:, 0].mul_(3.0)
                return y
            case "clone":
                return x.clone() + earlier.clone()
            case "slice":
                return torch.cat([x[:, :, 1:], x[:, :, :1]], 2)
            case "write_slice":
                y = x + 1
                y[:, :, n % 3 :] = earlier[:, :, n % 3 :]
                return y
            case "flip":
                return x.flip(1 + n % 3)
            case "softmax":
                return x.softmax(1 + n % 3)
            case "expand":
                return x + x.mean(1, keepdim=True).expand(-1, 4, -1, -1)
            case "pool":
                return F.avg_pool2d(x, 3, 1, 1) if n % 2 else F.max_pool2d(x, 3, 1, 1)
            case "to_same":
                return x.to(x.dtype).contiguous()
            case _:
                return layer(x)


NETWORKS = st.builds(
    Random,
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=1, max_size=9),
    st.lists(st.integers(0, 20), max_size=2),
    st.integers(0, 3),
)


def exact_passes():
    """Every registered pass, with default options, that promises to keep the outputs."""
    found: list[Pass] = [registry.get("pass", name)() for name in registry.names("pass")]
    return [p for p in found if all(step.kind == "exact" for step in p.steps())]


@pytest.mark.parametrize("networks", [40, pytest.param(70, marks=pytest.mark.slow)])
def test_outputs_are_kept(networks):
    exact = exact_passes()
    at_work: set[str] = set()

    @settings(max_examples=networks)
    @given(NETWORKS, st.permutations(exact), st.integers(len(exact) // 2, len(exact)))
    def check(network, order, count):
        network.eval()
        pipeline = Pipeline(tuple(order[:count]))
        program = capture(network, (torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)),))
        outcome = pipeline.run(program, workload=small_workload(program))
        at_work.update(step.text for step in outcome.steps if step.changed)
        _compare(network.double(), outcome.program, f"{program.text()}\n-- {pipeline}\n{outcome.program.text()}")

    check()
    # else the networks are too plain to say anything of these
    named = {"drop_noop", "fold_batch_norm", "fold_constants", "merge_duplicates", "conv_transpose_to_conv"}
    assert named <= at_work


def _compare(network, program, story):
    for size in BATCHES:
        x = torch.randn(size, 4, 4, 4, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            want = network(x.double())
        for i, (a, b) in enumerate(zip(want, program(x), strict=True)):
            error = relative_error(a, b.double())
            assert error < 1e-4, f"output {i}, batch {size}: {error:.3g}\n{story}"
