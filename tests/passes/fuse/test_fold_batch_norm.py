"""fold_batch_norm against torch's own module in float64, and its weights against torch.nn.utils.fusion."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fxopt import Pipeline, capture
from fxopt.ir.parser import parse_program
from fxopt.passes.fuse.fold_batch_norm import fold_batch_norm

CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
}


def trained(model):
    """The model in evaluation mode, its batch norms with statistics, scales (negative ones too) and shifts."""
    torch.manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.1, 3.0)
            if part.affine:
                nn.init.uniform_(part.weight, -1.5, 1.5)
                nn.init.normal_(part.bias)
    return model.eval()


def fold(model, *inputs):
    """What the pass alone makes of the model: verification is left out, the comparison here stands in for it."""
    program = capture(model, inputs)
    outcome = Pipeline.of(fold_batch_norm()).run(program, watchers=())
    return outcome.program, [skip.reason for skip in outcome.steps[0].skips]


def assert_folded(model, *shape, tolerance=1e-12):
    """No batch norm is left, and on new inputs the outputs of every channel are the module's."""
    model = trained(model).double()
    program, skips = fold(model, torch.randn(shape, dtype=torch.double))
    assert not list(program.find("aten.batch_norm")), skips
    x = torch.randn(3, *shape[1:], dtype=torch.double)
    with torch.no_grad():
        want = model(x)
    torch.testing.assert_close(program(x), want, rtol=tolerance, atol=tolerance * want.abs().max().item())
    return program


@st.composite
def convolution_and_norm(draw):
    """A convolution of any kind, and the batch norm behind it."""
    dims, transposed = draw(st.integers(1, 3)), draw(st.booleans())
    groups, stride = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 2))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))  # depthwise among them
    same = not transposed and stride == 1 and draw(st.booleans())
    more = {"output_padding": draw(st.integers(0, stride - 1))} if transposed else {}
    conv, conv_transpose, norm = CONVOLUTIONS[dims]
    layer = (conv_transpose if transposed else conv)(
        inputs, outputs, draw(st.integers(1, 3)), stride=stride, padding="same" if same else draw(st.integers(0, 1)),
        dilation=draw(st.integers(1, 2)), groups=groups, bias=draw(st.booleans()), **more,
    )  # fmt: skip
    affine, eps = draw(st.booleans()), draw(st.sampled_from([1e-5, 1e-3, 0.5]))
    return nn.Sequential(layer, norm(outputs, eps=eps, affine=affine)), (2, inputs, *[6, 5, 7][:dims])


@settings(max_examples=50)
@given(convolution_and_norm())
def test_convolutions_of_every_kind(drawn):
    model, shape = drawn
    program = assert_folded(model, *shape)
    assert set(program.tensors()) == {"0.weight", "0.bias"}, "the weight keeps its name, and the bias has that of torch"


def test_two_batch_norms_in_a_row_fold_into_one_convolution():
    program = assert_folded(nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)), 2, 2, 6)
    assert set(program.tensors()) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_those_of_torch_rounded_once(dtype, bias):
    conv, linear = nn.Conv2d(4, 8, 3, groups=2, bias=bias), nn.Linear(4, 8, bias=bias)
    for layer, norm, fuse, x in (
        (conv, nn.BatchNorm2d(8), fuse_conv_bn_eval, torch.randn(2, 4, 5, 5)),
        (linear, nn.BatchNorm1d(8), fuse_linear_bn_eval, torch.randn(2, 4)),
    ):
        model = trained(nn.Sequential(layer, norm)).to(dtype)
        want = fuse(copy.deepcopy(model[0]).double(), copy.deepcopy(model[1]).double())
        program, _ = fold(model, x.to(dtype))
        for name, got in program.tensors().items():
            exact = want.get_parameter(name.removeprefix("0."))
            assert got.dtype == dtype
            assert ((got - exact).abs() <= exact.abs() * torch.finfo(dtype).eps * 0.51).all(), name


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 10.0])
def test_variances_over_many_orders_of_magnitude(eps):
    model = trained(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=eps)))
    model[1].running_var.copy_(torch.tensor([0.0, 1e-12, 1e-6, 1.0, 1e6, 1e12]))
    program, _ = fold(model, torch.randn(2, 3, 5, 5))
    x = torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        want, got = model.double()(x.double()), program(x)
    error = (got - want).abs().amax((0, 2, 3)) / want.abs().amax((0, 2, 3))
    assert (error < 1e-5).all(), f"by channel: {error.tolist()}"


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 1e-12), (torch.float32, 0.0)])
def test_a_dead_channel_whose_weight_would_overflow_is_declined(dtype, eps):
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=eps))).to(dtype)
    model[1].running_var[0] = 0.0
    _, skips = fold(model, torch.zeros(2, 3, 4, 4, dtype=dtype))
    assert skips == [f"folded, the weight or bias would be beyond the range of {dtype}"]


class CalledTwice(nn.Module):
    """One convolution under two batch norms; its weight is read by a penalty as well."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm2(self.conv(torch.relu(self.norm(self.conv(x))))) + self.conv.weight.sum()


def test_a_shared_weight_is_copied_for_each_call_and_kept_for_other_readers():
    program = assert_folded(CalledTwice(), 2, 3, 6, 6)
    convs = [program.tensor(node.args[1]) for node in program.find("aten.conv2d")]
    assert not torch.equal(*convs)
    assert {"conv.weight", "conv.bias"} <= set(program.tensors())


def test_tied_weights_are_not_folded_into_each_other():
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.Conv1d(2, 2, 1))
    model[2].weight = model[0].weight
    assert_folded(model, 2, 2, 4)


def test_the_module_itself_is_left_as_it_was():
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    before = copy.deepcopy(model.state_dict())
    fold(model, torch.randn(2, 3, 5, 5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class WithReader(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y), y  # a batch norm and an output


def test_a_convolution_that_others_read_is_declined_with_the_source_line():
    program = capture(trained(WithReader()), (torch.randn(2, 3, 5, 5),))
    (step,) = Pipeline.of(fold_batch_norm()).run(program, watchers=()).steps
    (skip,) = step.skips
    lines = Path(__file__).read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if text.endswith("# a batch norm and an output"))
    assert skip.source.endswith(f"test_fold_batch_norm.py:{line}")
    assert skip.reason == "the result of aten.conv2d is also used elsewhere, without this batch norm"
    assert not step.changed


HEAD = """
%x : f32[4,4,4]
%w = param "fc.weight" : f32[4,4]
%c = param "conv.weight" : f32[4,4,1]
%g = param "bn.weight" : f32[4]
%m = param "bn.running_mean" : f32[4]
%v = param "bn.running_var" : f32[4]
"""


def test_a_weight_that_the_graph_reads_at_two_places_is_kept_for_the_other():
    program = parse_program(
        f'{HEAD}%d = param "conv.weight" : f32[4,4,1]\n%y = aten.conv1d(%x, %c); %k = aten.conv1d(%x, %d)\n'
        "%z = aten.batch_norm(%y, %g, None, %m, %v, False, 0.1, 1e-05, False); %o = aten.sub.Tensor(%z, %k)"
    )
    after = Pipeline.of(fold_batch_norm()).run(program, watchers=()).program
    x = torch.randn(4, 4, 4)
    torch.testing.assert_close(after(x), program(x))


@pytest.mark.parametrize(
    ("before", "norm", "reason"),
    [
        ("", "%x, %g, None, %m, %v, False", "what comes before it is an input of the model, not a convolution or"),
        ("%y = aten.relu(%x)", "%y, %g, None, %m, %v, False", "what comes before it is aten.relu, not a convolution"),
        ("%y = aten.linear(%x, %w)", "%y, %g, None, %m, %v, False", "the result of aten.linear has 3 dims, not 2"),
        ("%y = aten.conv1d(%x, %c)", "%y, %g, None, %m, %v, True", "training=True: "),
        (
            "%y = aten.conv1d(%x, %c); %k = aten.neg(%g)",
            "%y, %k, None, %m, %v, False",
            "its scale, shift or statistics",
        ),
        ("%y = aten.conv1d(%x, %c); %k = aten.neg(%g)", "%y, %g, %k, %m, %v, False", "its scale, shift or statistics"),
        (
            "%y = aten.conv1d(%x, %c); %k = aten.neg(%m)",
            "%y, %g, None, %k, %v, False",
            "its scale, shift or statistics",
        ),
        ("%k = aten.neg(%c); %y = aten.conv1d(%x, %k)", "%y, %g, None, %m, %v, False", "the weight of aten.conv1d is"),
        ("%k = aten.neg(%g); %y = aten.conv1d(%x, %c, %k)", "%y, %g, None, %m, %v, False", "the weight of aten.conv1d"),
    ],
)
def test_it_is_declined_with_a_reason(before, norm, reason):
    program = parse_program(f"{HEAD}\n{before}\n%z = aten.batch_norm({norm}, 0.1, 1e-05, False)")
    outcome = Pipeline.of(fold_batch_norm()).run(program, watchers=())
    assert list(outcome.program.find("aten.batch_norm"))
    (skip,) = outcome.steps[0].skips
    assert skip.reason.startswith(reason)
    assert skip.node.startswith("%z = aten.batch_norm(")


def test_batch_norm_without_statistics_normalizes_with_each_batch_and_is_declined():
    _, skips = fold(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval(), torch.randn(2, 3, 4, 4)
    )
    assert [reason.partition(":")[0] for reason in skips] == ["training=True"]


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4)])
def test_an_input_without_a_batch_is_not_taken_for_one(shape):
    """Of an unbatched convolution [C,L] the second dim is no channel; with sizes that agree, nothing would fail."""
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4))
    program = capture(trained(model), (torch.randn(shape),), dynamic=None)
    after = Pipeline.of(fold_batch_norm()).run(program, watchers=()).program
    x = torch.randn(shape)
    torch.testing.assert_close(after(x), program(x))
