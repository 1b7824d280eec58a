"""Layers of XNNPACK that quantize their inputs as they run: int8 weights and 4-bit ones, against the program in eager."""

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.backend import find_backend
from fxopt.backends.executorch import Executorch
from fxopt.driver.lower import lower
from fxopt.errors import BackendError
from fxopt.numerics.error_metrics import sqnr
from fxopt.numerics.float64_quant_ops import wide_twin
from fxopt.target.detect import host
from fxopt.testing import small_workload

if reason := Executorch().missing():
    pytest.skip(reason, allow_module_level=True)


class _Attention(nn.Module):
    """Three layers that read one value, a product of two computed values, and two with a matrix on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(64, 64) for _ in range(3))
        self.out, self.last = nn.Parameter(torch.randn(64, 96) / 8), nn.Parameter(torch.randn(96, 32) / 10)
        self.bias = nn.Parameter(torch.randn(32))

    def forward(self, x):
        shares = (self.query(x) @ self.key(x).transpose(1, 2) / 8).softmax(-1)
        y = torch.matmul(shares @ self.value(x), self.out)
        return torch.addmm(self.bias, y.flatten(0, 1), self.last).unflatten(0, y.shape[:2])


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return capture(_Attention().eval(), (torch.randn(2, 7, 64),))


def _quantized(program, passes, backend=None):
    where = {"workload": small_workload(program), "target": host(), "backend": backend or Executorch()}
    return Pipeline.parse(passes).run(program, watchers=(), **where).program


def _inputs(count):
    """Tokens whose ranges differ by up to 100 times, so that one scale for all would lose the small ones."""
    return torch.randn(count, 7, 64) * 10 ** torch.linspace(-1, 1, 7).unsqueeze(-1)


PASSES = ["quantize_dynamic", "quantize_weights(bits=4)", "quantize_weights(bits=4, rounding='gptq', images=8)"]


@pytest.mark.parametrize("passes", [PASSES[0], *(pytest.param(text, marks=pytest.mark.slow) for text in PASSES[1:])])
def test_linears_are_integer_layers_with_the_numbers_of_the_program(program, passes, tmp_path):
    made = _quantized(program, passes)
    (tmp_path / "out").mkdir()
    _, artifact = lower(made, Executorch(), host(), tmp_path / "out")
    facts = artifact.manifest.facts
    assert facts["dequantized_at_run_time"] == []
    assert facts["integer_contractions"] == 5
    assert facts["float_contractions"] == 2, "of two computed values"
    x = _inputs(3)
    assert sqnr([made(x)], [torch.from_numpy(artifact(x.numpy()))]) > 50
    assert sqnr([program(x)], [made(x)]) > (30 if passes == "quantize_dynamic" else 8)


def test_no_example_depends_on_the_rest_of_its_batch(program, tmp_path):
    """With one range for a whole tensor, an example a hundred times larger would take the codes of the others."""
    made = _quantized(program, "quantize_dynamic")
    (tmp_path / "out").mkdir()
    _, artifact = lower(made, Executorch(), host(), tmp_path / "out")
    x = _inputs(2).numpy()
    alone = artifact(x[:1])
    x[1] *= 100
    assert (artifact(x)[:1] == alone).all()


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ("quantize_weights(bits=8)", "of 4 bits alone"),
        ("quantize_weights(bits=4, block=16)", "a multiple of 32 inputs"),
    ],
)
def test_blocks_without_a_kernel_are_refused_before_the_build(program, passes, words, tmp_path):
    with pytest.raises(BackendError, match=words):
        lower(_quantized(program, passes), Executorch(), host(), tmp_path)


def test_weights_that_were_quantized_for_another_backend_are_refused(program, tmp_path):
    made = _quantized(program, "quantize_weights(bits=4)", find_backend("onnx"))
    with pytest.raises(BackendError, match="quantize for this backend"):
        lower(made, Executorch(), host(), tmp_path)


@pytest.mark.parametrize("name", ["onnx", "openvino", "tvm"])
def test_other_backends_refuse_ranges_of_tokens_before_they_build(program, name, tmp_path):
    backend = find_backend(name)
    if reason := backend.cannot_build(host()):
        pytest.skip(reason)
    with pytest.raises(BackendError, match="per_token"):
        lower(_quantized(program, "quantize_dynamic"), backend, host(), tmp_path)


def test_the_float64_twins_are_the_ops_of_torch():
    ops = torch.ops.quantized_decomposed
    x = torch.cat(
        [torch.randn(50, 9), torch.rand(10, 9), -torch.rand(10, 9), torch.zeros(1, 9), torch.randn(5, 9) * 1e4]
    )
    scale, zero = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
    wide_scale, wide_zero = wide_twin(ops.choose_qparams_per_token_asymmetric.default)(x.double(), torch.int8)
    assert torch.allclose(scale, wide_scale, rtol=1e-6)
    assert torch.equal(zero, wide_zero)
    form = (scale, zero, -128, 127, torch.int8)
    codes, twin = ops.quantize_per_token(x, *form), wide_twin(ops.quantize_per_token.default)(x.double(), *form)
    assert (codes.int() - twin.int()).abs().max() <= 1
    assert (codes != twin).float().mean() < 0.01, "but for ties"
    real, wide = (
        ops.dequantize_per_token(codes, *form, torch.float32),
        wide_twin(ops.dequantize_per_token.default)(codes, *form),
    )
    assert torch.allclose(real.double(), wide, rtol=1e-6)
