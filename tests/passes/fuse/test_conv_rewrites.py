"""conv_to_2d and conv_transpose_to_conv: the numbers of torch's own convolutions in float64, whatever their form."""

import pytest
import torch
from cases.other_dims import Clip, Decoder, Wave
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, capture
from fxopt.backends.tvm import Tvm
from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.target.detect import host
from fxopt.testing import small_workload


def rewrite(spec, program):
    return Pipeline.parse(spec).run(program, watchers=())


def ops(program):
    return [op_name(node) for node in program.graph.nodes if node.op == "call_function"]


def check(module, *args, spec="conv_to_2d, conv_transpose_to_conv"):
    """Rewrite a module in float64, and compare for the batch it was captured with and for another; return the program."""
    module, args = module.double().eval(), [arg.double() for arg in args]
    return compare(module, rewrite(spec, capture(module, tuple(args))).program, *args)


def compare(module, program, *args):
    """Run a module in float64 and its rewritten program on these inputs, and on others of another batch; return the program."""
    for inputs in (args, [torch.randn(3, *arg.shape[1:]).double() for arg in args]):
        with torch.no_grad():
            want = module(*inputs)
        got = program(*inputs)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    return program


class Layer(nn.Module):
    """One functional convolution with stored weights."""

    def __init__(self, call, weight, bias):
        super().__init__()
        self.call, self.weight, self.bias = call, nn.Parameter(weight), None if bias is None else nn.Parameter(bias)

    def forward(self, x):
        return self.call(x, self.weight, self.bias)


@st.composite
def convolutions(draw, rank, transposed):
    """A convolution of that many dims, and an input for it."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    each = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    kernel, stride, dilation, padding = each(1, 4), each(1, 3), each(1, 2), each(0, 3)
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    weight, bias = torch.randn(*shape, *kernel), torch.randn(outputs) if draw(st.booleans()) else None
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        options["output_padding"] = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    name = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
    x = torch.randn(2, inputs, *each(3, 6))
    try:
        assume(getattr(F, name)(x, weight, bias, **options).numel())
    except RuntimeError:  # a kernel that is larger than the input
        assume(False)
    return Layer(lambda x, w, b: getattr(F, name)(x, w, b, **options), weight, bias), x


@settings(max_examples=40)
@given(convolutions(1, False))
def test_one_dim(drawn):
    assert "aten.conv1d" not in ops(check(*drawn))


@settings(max_examples=40)
@given(convolutions(3, False))
def test_three_dims(drawn):
    assert "aten.conv3d" not in ops(check(*drawn))


@settings(max_examples=60)
@given(convolutions(2, True))
def test_transposed(drawn):
    layer, x = drawn[0].double().eval(), drawn[1].double()
    program = capture(layer, (x,))
    (node,) = program.find("aten.conv_transpose2d.input")
    outcome = rewrite("conv_to_2d, conv_transpose_to_conv", program)
    compare(layer, outcome.program, x)
    stays = [skip.reason for skip in outcome.steps[-1].skips]
    assert ("aten.conv_transpose2d.input" in ops(outcome.program)) == bool(stays)
    given = arguments(node)
    gaps = any(g > 1 and s > 1 for g, s in zip(given["dilation"], given["stride"], strict=True))
    beyond = any(m > p for m, p in zip(given["output_padding"], given["padding"], strict=True))
    assert not stays or gaps or beyond, stays


@settings(max_examples=30)
@given(convolutions(1, True))
def test_transposed_in_one_dim(drawn):
    assert "aten.conv_transpose1d" not in ops(check(*drawn))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_border_by_its_name(rank, padding):
    conv = nn.Conv1d if rank == 1 else nn.Conv3d
    program = check(nn.Sequential(conv(3, 4, 3, padding=padding, dilation=2)), torch.randn(2, 3, *[7] * rank))
    assert ops(program).count("aten.conv2d") == 1


def test_what_cannot_be_rewritten_is_told():
    lopsided = rewrite("conv_to_2d", capture(nn.Conv1d(3, 4, 2, padding="same"), (torch.randn(2, 3, 8),)))
    assert "not as wide" in lopsided.steps[0].skips[0].reason
    single = rewrite("conv_to_2d", capture(nn.Conv1d(3, 4, 2), (torch.randn(3, 8),), dynamic=None))
    assert "without a batch" in single.steps[0].skips[0].reason


def test_values_stay_images_from_convolution_to_convolution():
    program = check(Wave(), torch.randn(2, 3, 16))
    assert [op for op in ops(program) if "squeeze" in op] == ["aten.unsqueeze", "aten.unsqueeze"], (
        "the input, and the scale"
    )


def test_volumes_stay_images_from_convolution_to_convolution():
    program = check(Clip(), torch.randn(2, 3, 4, 6, 6))
    assert ops(program).count("aten.permute") == 2, "in and out"


def test_a_decoder_computes_what_it_needs():
    program = check(Decoder(), torch.randn(2, 8, 5, 6))
    assert "aten.conv_transpose2d.input" not in ops(program)
    assert ops(program).count("aten.slice.Tensor") == 2, "of four borders, two are not even computed"


@pytest.mark.parametrize("spec", ["quantize(per_channel=True)", "quantize(per_channel=False)"])
def test_codes_stay_codes(spec):
    program = capture(Wave().eval(), (torch.randn(2, 3, 16),))
    where = {"workload": small_workload(program), "target": host(), "backend": Tvm()}
    program = Pipeline.parse(spec).run(program, watchers=(), **where).program
    rewritten = rewrite("conv_to_2d", program).program
    x = torch.randn(3, 3, 16)
    torch.testing.assert_close(rewritten(x), program(x), rtol=1e-5, atol=1e-5)
    for conv in rewritten.find("aten.conv2d"):
        codes = conv.args[1].args[0]
        assert rewritten.tensor(codes).dtype == torch.int8, rewritten.describe(conv)
