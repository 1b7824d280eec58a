"""RMS norms as one kernel of ONNX Runtime: torch's numbers in each spelling, and a note of those that are written out."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, capture
from fxopt.backends.onnx.backend import Onnx
from fxopt.driver.lower import lower
from fxopt.target.detect import host
from fxopt.testing import small_workload

KERNEL = "SimplifiedLayerNormalization"


class Net(nn.Module):
    """``norm(x, weight)`` of x ``[N, 5, 8]`` or ``[N, 8]``."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.linspace(0.5, 2, 8))

    def forward(self, x):
        return self.norm(x, self.weight)


def core(x, eps=1e-3):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


FORMS = {
    "torch's own": lambda x, w: F.rms_norm(x, (8,), w, 1e-3),
    "torch's own, default eps": lambda x, w: F.rms_norm(x, (8,), w),
    "torch's own, no weight": lambda x, w: F.rms_norm(x, (8,)) + 1,
    "weight before": lambda x, w: w * core(x),
    "weight after": lambda x, w: core(x) * w,
    "one and the weight": lambda x, w: core(x) * (1 + w),
    "no weight": lambda x, w: core(x).relu(),
    "read twice": lambda x, w: (lambda y: y * w + y.relu())(core(x)),
    "casts around": lambda x, w: w * core(x.float()).to(x.dtype),
    "squares as products": lambda x, w: torch.rsqrt((x * x).mean(-1, True) + 1e-3) * x * w,
    "a large eps": lambda x, w: core(x, 0.7) * w,
}
EPS = torch.finfo(torch.float32).eps
REFERENCES = {
    "torch's own, default eps": lambda x, w: core(x, EPS) * w,
    "torch's own, no weight": lambda x, w: core(x, EPS) + 1,
    "casts around": lambda x, w: core(x) * w,
}
"""Of forms that say float32."""


def built(net, x, folder):
    """The artifact of a dynamic batch, and the kernels that the runtime runs."""
    return lowered(capture(net.eval(), (x,), dynamic=({0: torch.export.Dim("batch")},)), folder)


def lowered(program, folder):
    _, artifact = lower(program, Onnx(), host(), folder)
    session = onnxruntime.SessionOptions()
    session.optimized_model_filepath = str(folder / "optimized.onnx")
    session.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "model.onnx", session, providers=["CPUExecutionProvider"])
    return artifact, [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize("shape", [(3, 8), (3, 5, 8)])
@pytest.mark.parametrize("form", FORMS)
def test_it_is_one_kernel_that_gives_torchs_numbers(form, shape, tmp_path):
    """float64 is the reference; float32's own error is of 1e-7."""
    torch.manual_seed(0)
    artifact, kernels = built(Net(FORMS[form]), torch.randn(shape), tmp_path)
    assert KERNEL in kernels
    assert not {"ReduceMean", "Sqrt"} & set(kernels)
    assert "notes" not in artifact.manifest.facts
    for n in (1, 4):
        x = torch.randn(n, *shape[1:]) * torch.logspace(-2, 1, n).view(n, *[1] * (len(shape) - 1))
        want = REFERENCES.get(form, FORMS[form])(x.double(), Net(None).weight.double())
        got = torch.as_tensor(artifact(x.numpy())).double()
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-6), (got - want).abs().max()


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (lambda x, w: F.rms_norm(x, (5, 8), None, 1e-3), "it is over other dims than the last"),
        (lambda x, w: x * torch.rsqrt(x.pow(2).mean(1, True) + 1e-3) * w, "it is over other dims than the last"),
        (
            lambda x, w: (lambda r: x * r * w + r)(torch.rsqrt(x.pow(2).mean(-1, True) + 1e-3)),
            "its mean or its root is",
        ),
    ],
)
def test_others_are_written_out_with_a_note(norm, reason, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    artifact, kernels = built(Net(norm), x, tmp_path)
    assert KERNEL not in kernels
    (note,) = artifact.manifest.facts["notes"]
    assert note.startswith(f"an RMS norm is written out: {reason}")
    assert "test_onnx_norms.py:" in note
    want = norm(x.double(), torch.linspace(0.5, 2, 8).double())
    assert torch.allclose(torch.as_tensor(artifact(x.numpy())).double(), want, rtol=1e-6, atol=1e-6)


def test_half_precision_is_normalised_in_float32(tmp_path):
    torch.manual_seed(0)
    net, x = Net(FORMS["torch's own"]).half(), torch.randn(3, 8).half()
    artifact, kernels = built(net, x, tmp_path)
    assert KERNEL in kernels
    want = FORMS["torch's own"](x.double(), net.weight.double())
    assert torch.allclose(torch.as_tensor(artifact(x.numpy())).double(), want, rtol=2e-3, atol=2e-3)


def test_between_int8_linears_it_is_one_kernel(tmp_path):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(32, 32), nn.RMSNorm(32, 1e-3), nn.Linear(32, 32)).eval(), torch.randn(64, 32)
    program = capture(net, (x,))
    where = {"workload": small_workload(program), "backend": Onnx(), "target": host()}
    quantized = Pipeline.parse("quantize").run(program, watchers=(), **where).program
    artifact, kernels = lowered(quantized, tmp_path)
    assert kernels.count(KERNEL) == 1
    assert "ReduceMean" not in kernels
    assert {"QuantizeLinear", "DequantizeLinear"} & set(kernels)
    want, got = net.double()(x.double()), torch.as_tensor(artifact(x.numpy()))
    assert (got - want).square().mean() < 1e-3 * want.square().mean(), "30 dB"


def test_the_file_has_operators_of_the_standard_alone(tmp_path):
    built(Net(FORMS["weight before"]), torch.randn(3, 8), tmp_path)
    assert {node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node} == {""}
