"""int8 quantization: codes and scales against their definitions, placement, and what is declined."""

from __future__ import annotations

import pytest
import torch
from cases.integer_chain import IntegerChain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, Workload, capture
from fxopt.backend import Backend
from fxopt.backend.quant_policy import Policy
from fxopt.errors import DataError, PassError
from fxopt.ir.printer import op_name
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.quant.weights import quantize_bias, quantize_weight, weight_scales, widen_for_bias
from fxopt.target.detect import host
from fxopt.testing import small_workload

finite = st.floats(-1e4, 1e4, width=32)


def _quantize(module: nn.Module, *shape: int, passes: str = "quantize", policy: Policy | None = None) -> tuple:
    """Captured, and quantized with its skips and steps."""

    class Chosen(Backend):
        name = "chosen"

        def quant_policy(self, target):
            return policy or Policy()

    torch.manual_seed(0)
    program = capture(module.eval(), (torch.randn(shape),))
    outcome = Pipeline.parse(passes).run(
        program, workload=small_workload(program), target=host(), backend=Chosen()
    )  # fmt: skip
    return program, outcome


def _quantized(program: Program) -> list[str]:
    """What is quantized, by op, in order: the operand of every quantize op."""
    nodes = program.find("quantized_decomposed.quantize_per_tensor")
    return [op_name(node.args[0]).removeprefix("aten.") for node in nodes]


def _reasons(outcome) -> list[str]:
    """Reasons, but for that of the small workload having fewer images than are asked for."""
    skips = [skip for step in outcome.steps for skip in step.skips]
    return [skip.reason for skip in skips if not skip.reason.startswith("calibrated with 8 images")]


# ---- numbers -------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(finite, min_size=6, max_size=6), min_size=1, max_size=4))
def test_weight_codes_are_the_nearest_of_255_symmetric_ones_in_each_channel(rows):
    weight = torch.tensor(rows)
    scales = weight_scales(weight)
    codes = quantize_weight(weight, scales)
    assert codes.min() >= -127
    error = (codes.double() * scales.double()[:, None] - weight.double()).abs()
    assert bool((error <= scales.double()[:, None] / 2 * (1 + 1e-6)).all())
    largest = weight.abs().amax(1)
    assert torch.allclose(scales[largest > 0], largest[largest > 0] / 127)


@given(st.lists(st.lists(finite, min_size=9, max_size=9), min_size=1, max_size=4))
def test_with_safe_pairs_two_products_never_leave_16_bits(rows):
    """The rule written out: pairs of one kernel position, and pairs of the whole order, positions then channels."""
    weight = torch.tensor(rows)[:, :9].reshape(-1, 3, 3)
    codes = quantize_weight(weight, weight_scales(weight, safe_pairs=True)).int()
    for channel in codes.tolist():
        positions = [[channel[c][k] for c in range(3)] for k in range(3)]
        orders = [*positions, [code for position in positions for code in position]]
        for order in orders:
            for i in range(0, len(order), 2):
                pair = order[i : i + 2]
                assert 255 * sum(code for code in pair if code > 0) < 2**15
                assert 255 * sum(code for code in pair if code < 0) >= -(2**15)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=8), st.floats(1e-8, 1e3))
def test_a_bias_keeps_its_value_and_its_sign_however_large(values, input_scale):
    bias = torch.tensor(values)
    scales = widen_for_bias(torch.full_like(bias, 1e-3), bias, input_scale)
    both = (scales.double() * input_scale).float()
    codes = quantize_bias(bias, both)
    error = (codes.double() * both.double() - bias.double()).abs()
    assert bool((error <= both.double() / 2 + bias.double().abs() * 1e-6).all())


def test_a_bias_beyond_31_bits_of_its_products_widens_the_scale_of_its_channel():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.fill_(1e-9)
        layer.bias.copy_(torch.tensor([1e3, 0.0]))
    program, outcome = _quantize(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), layer), 2, 4)
    want, got = (p(*program.args) for p in (program, outcome.program))
    assert torch.allclose(got[:, 0], want[:, 0], rtol=1e-2)


# ---- placement -----------------------------------------------------------------------------------------------------


def test_a_chain_of_convolutions_stays_in_integers_to_the_end():
    _, outcome = _quantize(IntegerChain(), 2, 4, 8, 8)
    assert _quantized(outcome.program) == [
        "placeholder" if name == "x" else name
        for name in ["x", "relu", "conv2d", "relu", "max_pool2d", "conv2d", "avg_pool2d", "cat", "adaptive_avg_pool2d"]
    ] + ["flatten.using_ints"]  # fmt: skip
    assert not _reasons(outcome)


def test_what_only_repeats_numbers_has_the_scale_of_its_input():
    _, outcome = _quantize(IntegerChain(), 2, 4, 8, 8)
    (pool,) = outcome.program.find("aten.max_pool2d")
    (after,) = pool.users
    assert after.args[1:3] == pool.args[0].args[1:3]


def test_without_integer_outputs_only_inputs_and_weights_are_quantized():
    _, outcome = _quantize(IntegerChain(), 2, 4, 8, 8, policy=Policy(convolution_output="never"))
    assert _quantized(outcome.program) == ["placeholder", "relu", "relu", "flatten.using_ints"]


def test_nothing_is_put_between_a_convolution_and_its_fused_activation():
    for activation in (nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0.0, 2.0)):
        _, outcome = _quantize(nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 3, 1)), 2, 3, 6, 6)
        (first, _) = outcome.program.find("aten.conv2d")
        assert not any(op_name(user).startswith("quantized") for user in first.users), activation
    _, outcome = _quantize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(-1.0, 1.0), nn.Conv2d(4, 3, 1)), 2, 3, 6, 6)
    (first, _) = outcome.program.find("aten.conv2d")
    assert all(op_name(user).startswith("quantized") for user in first.users), "a byte from zero on cannot clamp at -1"


def test_a_sum_that_no_integer_layer_reads_stays_in_float():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = F.relu(self.a(x))
            return y + self.a(y)

    _, outcome = _quantize(Last(), 2, 4, 5, 5)
    (total,) = outcome.program.find("aten.add.Tensor")
    assert not any(op_name(user).startswith("quantized") for user in total.users)


def test_a_weight_that_two_layers_share_is_stored_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x):
            return self.a(F.relu(self.a(x)))

    _, outcome = _quantize(Twice(), 2, 4, 5, 5)
    assert [t.dtype for t in outcome.program.tensors().values()].count(torch.int8) == 2  # codes, and zero points
    assert len({n.args[1] for n in outcome.program.find("aten.conv2d")}) == 1


def test_depthwise_kernels_add_no_pairs_and_keep_all_eight_bits():
    def levels(groups):
        torch.manual_seed(1)
        net = nn.Conv2d(8, 8, 3, groups=groups, bias=False)
        net.weight.data = net.weight.data.abs() + 0.1
        _, outcome = _quantize(net, 2, 8, 6, 6, policy=Policy(pairs_in_16_bits=True))
        return int(max(t.abs().max() for t in outcome.program.tensors().values() if t.dtype == torch.int8))

    assert levels(8) == 127
    assert levels(1) < 127


# ---- what is declined ----------------------------------------------------------------------------------------------


class _Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)) @ x.transpose(1, 2)


def test_products_of_computed_values_are_quantized_if_the_backend_multiplies_them():
    policy = Policy("between_integers", products=True)
    _, outcome = _quantize(_Attending(), 2, 5, 12, policy=policy)
    program = outcome.program
    codes = {node.args[0].name: node.args[1:] for node in program.find("quantized_decomposed.quantize_per_tensor")}
    assert list(codes) == ["x", "linear", "linear_1", "linear_2", "softmax_int", "flatten", "linear_3"]
    symmetric = {name for name, (_, zero, low, *_) in codes.items() if (zero, low) == (0, -128)}
    assert symmetric == {"linear_1", "linear_2"}  # keys and values; what a layer reads too keeps the layers' format
    assert len(list(program.find("aten.matmul"))) == 3
    assert _reasons(outcome) == []


def test_products_stay_in_float_by_name_and_attention_whole_without_the_policy():
    policy = Policy("between_integers", products=True)
    _, outcome = _quantize(_Attending(), 2, 5, 12, policy=policy, passes="quantize(keep_float=('matmul*',))")
    assert _quantized(outcome.program) == ["placeholder", "flatten.using_ints"]
    assert _reasons(outcome) == ["kept in float by keep_float=('matmul*',)"] * 3
    _, outcome = _quantize(_Attending(), 2, 5, 12)
    assert list(outcome.program.find("aten.scaled_dot_product_attention"))
    assert len(_reasons(outcome)) == 2


class _Declined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2)
        self.first, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.first(self.up(x))
        y = self.norm(y) + y
        tokens = self.last(y).flatten(2)
        return tokens @ tokens.transpose(1, 2)


def test_every_layer_left_in_float_has_a_reason_and_the_users_line():
    _, outcome = _quantize(_Declined(), 2, 3, 4, 4, passes="quantize(keep_float=('la*',))")
    (step,) = [step for step in outcome.steps if step.text.startswith("insert_qdq")]
    found = {skip.node.split(" = ")[1].split("(")[0]: skip for skip in step.skips}
    assert "no integer kernel" in found["aten.conv_transpose2d.input"].reason
    assert "stored weight" in found["aten.matmul"].reason
    reasons = [skip.reason for skip in step.skips]
    assert any("batch norm" in reason for reason in reasons)
    assert any("keep_float=('la*',)" in reason for reason in reasons)
    assert all("test_quantize.py:" in skip.source for skip in step.skips)
    assert not step.changed


def test_a_layer_is_kept_by_its_path_or_its_weights():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    for pattern in ("0", "0.weight", "[0-1]"):
        _, outcome = _quantize(net, 2, 3, 4, 4, passes=f"quantize(keep_float=({pattern!r},))")
        assert _quantized(outcome.program) == ["relu", "conv2d"]


def test_quantizing_twice_is_refused():
    with pytest.raises(PassError, match=r"quantized already(.|\n)*quantize_per_tensor"):
        _quantize(nn.Linear(4, 4), 2, 4, passes="quantize, quantize")


def test_a_weight_that_is_not_finite_is_named():
    net = nn.Sequential(nn.Linear(4, 4))
    net[0].weight.data[1, 2] = float("inf")
    program = capture(net, (torch.randn(2, 4),))
    with pytest.raises(PassError, match=r"'0\.weight' holds NaN or infinity"):
        Pipeline.parse("quantize").run(program, workload=small_workload(program), watchers=())


def test_an_activation_that_is_not_finite_is_named_with_its_line():
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(torch.log(x))

    program = capture(Log(), (torch.rand(2, 4) + 1,))
    with pytest.raises(DataError, match=r"NaN or infinity\n.*aten\.log.*test_quantize\.py:\d+"):
        Pipeline.parse("quantize").run(program, workload=small_workload(program), watchers=())


# ---- the whole -----------------------------------------------------------------------------------------------------


def test_calibration_batches_of_any_size_go_through_a_fixed_batch():
    net, images = nn.Conv2d(1, 2, 3), torch.randn(8, 1, 6, 6)
    images[7, 0, 2, 2] = 9.0  # in the last batch, which has to be filled up

    class Data:
        metric = "none"

        def batches(self, split, *, batch_size, seed=None):
            yield (images,), None

    program = capture(net, (images[:3],), dynamic=None)
    workload = Workload(name="fixed", model=lambda: net, inputs=lambda: ((images[:3],), {}), data=Data())
    outcome = Pipeline.parse("quantize").run(program, workload=workload, watchers=())
    (first, _) = outcome.program.find("quantized_decomposed.quantize_per_tensor")
    want = (max(0.0, images.max().item()) - min(0.0, images.min().item())) / 255
    assert first.args[1] == pytest.approx(want, rel=1e-6)


@settings(max_examples=8)
@given(
    st.sampled_from([1, 2, 3]), st.booleans(), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.booleans(), st.booleans()
)  # fmt: skip
def test_convolutions_of_any_form_lose_no_more_than_eight_bits_do(dims, bias, groups, stride, norm, padded):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    batch_norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    torch.manual_seed(3)
    layers = [conv(4, 8, 3, stride=stride, padding=int(padded), groups=groups, bias=bias)]
    layers += [batch_norm(8)] if norm else []
    net = nn.Sequential(*layers, nn.ReLU(), conv(8, 4, 1))
    program, outcome = _quantize(net, 2, 4, *[7] * dims)
    (x,) = next(small_workload(program).calibration(8, "the test"))  # values that calibration saw: none is clipped
    with torch.no_grad():
        want = net.eval()(x)
    assert sqnr([want], [outcome.program(x)]) > 30
    dequantized = list(outcome.program.find("quantized_decomposed.dequantize_per_channel"))
    assert len(dequantized) == 4, "both weights, and a bias each: correction gives one where there was none"


def test_a_weight_that_is_normalized_on_the_way_is_quantized_as_it_comes_out():
    torch.manual_seed(0)
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    spectral = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))
    _, outcome = _quantize(nn.Sequential(normed, nn.ReLU(), spectral), 2, 3, 6, 6)
    assert len(list(outcome.program.find("aten.conv2d"))) == 2
    assert not _reasons(outcome)
