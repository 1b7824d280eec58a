"""mean_to_pool, split_silu, split_attention, attention_to_4d: ops written as others, held against torch in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, capture
from fxopt.ir.parser import parse_program
from fxopt.ir.printer import op_name, source_line


def rewrite(spec, program):
    return Pipeline.parse(spec).run(program, watchers=()).program


def ops(program):
    return [op_name(node) for node in program.graph.nodes if node.op == "call_function"]


# ---- mean_to_pool --------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([[2, 3], [3, 2], [-1, -2], [2, -1], [-2, 3]]),
    st.sampled_from(["", ", False", ", True", ", keepdim=True"]),
    st.booleans(),
)
def test_a_mean_over_height_and_width_becomes_a_pool(shape, dims, keep, channels_last):
    text = f"%x : f64[{','.join(map(str, shape))}]\n%y = aten.mean.dim(%x, {dims}{keep})"
    program = rewrite("mean_to_pool", parse_program(text))
    x = torch.randn(shape, dtype=torch.double)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    assert ops(program)[0] == "aten.adaptive_avg_pool2d"
    torch.testing.assert_close(program(x), x.mean(dims, "True" in keep), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ("2,3,4,4", "[1, 2]"),
        ("2,3,4,4", "[0, 1]"),
        ("2,3,4,4", "[3]"),
        ("2,3,4,4", "[1, 2, 3]"),
        ("2,3,4,4", "[]"),
        ("2,3,4,4", "None"),
        ("2,3,4,4", "[-3, -1]"),
        ("2,3,4,4", "[2, 3], dtype=f64"),
        ("2,3,4", "[1, 2]"),
        ("2,3,4,4", "[1, 3]"),
        ("2,3,4,4,4", "[2, 3]"),
        ("2,3,4,4,4", "[-1, -2]"),
    ],
)
def test_another_mean_is_left(shape, dims):
    program = parse_program(f"%x : f32[{shape}]\n%y = aten.mean.dim(%x, {dims})")
    assert rewrite("mean_to_pool", program).text() == program.text()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_the_dtype_is_kept(dtype):
    program = rewrite("mean_to_pool", capture(Head(), (torch.randn(2, 4, 8, 8).to(dtype),)))
    x = torch.randn(3, 4, 8, 8).to(dtype)
    got, want = program(x), x.to(torch.complex128 if dtype.is_complex else torch.double).mean((2, 3))
    assert got.dtype == dtype
    torch.testing.assert_close(got.to(want.dtype), want, rtol=1e-6 if dtype.is_complex else 1e-2, atol=1e-2)


class Head(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def test_a_map_of_dynamic_size_stays_dynamic():
    sizes = {"x": {0: torch.export.Dim("n"), 2: torch.export.Dim("high"), 3: torch.export.Dim("wide")}}
    program = rewrite("mean_to_pool", capture(Head(), (torch.randn(2, 3, 8, 6),), dynamic=sizes))
    x = torch.randn(5, 3, 7, 9)
    torch.testing.assert_close(program(x), x.mean((2, 3)))


# ---- split_silu ----------------------------------------------------------------------------------------------------

EXTREMES = [-torch.inf, -1e30, -800.0, -80.0, -20.0, -1e-30, -0.0, 0.0, 1e-30, 20.0, 80.0, 1e30, torch.inf, torch.nan]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_silu_is_the_same_at_the_ends_of_the_range(dtype):
    program = rewrite("split_silu", capture(nn.SiLU(), (torch.randn(2, 3, dtype=dtype),)))
    assert ops(program) == ["aten.sigmoid", "aten.mul.Tensor"]
    x = torch.tensor(EXTREMES, dtype=dtype).reshape(-1, 1).expand(-1, 3)
    got, want = program(x), F.silu(x.double()).to(dtype)
    ulps = 2 * torch.finfo(dtype).eps  # the sigmoid is rounded, and the product
    torch.testing.assert_close(got, want, rtol=ulps, atol=torch.finfo(dtype).tiny, equal_nan=True)


class InPlace(nn.Module):
    """silu_ on a result, which can be written otherwise, and on a view of one that is read after it, which cannot."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = F.silu(self.linear(x), inplace=True)
        z = y * 2
        F.silu(z[:, 1:], inplace=True)
        return F.silu(F.silu(y)) + z


def test_every_silu_that_is_no_write_is_split():
    module = InPlace()
    program = rewrite("split_silu", capture(module, (torch.randn(2, 4),)))
    assert ops(program).count("aten.sigmoid") == 3
    assert [op for op in ops(program) if "silu" in op] == ["aten.silu_"]
    x = torch.randn(5, 4)
    with torch.no_grad():
        want = module.double()(x.double())
    torch.testing.assert_close(program(x).double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "model", "shape"), [("split_silu", InPlace, (2, 4)), ("mean_to_pool", Head, (2, 4, 8, 8))]
)
def test_the_new_ops_have_the_source_line_of_the_old(spec, model, shape):
    program = capture(model(), (torch.randn(shape),))
    old = next(program.find("aten.silu", "aten.mean"))
    new = list(rewrite(spec, program).find("aten.sigmoid", "aten.mul", "aten.adaptive_avg_pool2d", "aten.flatten"))[:2]
    assert source_line(old)
    assert [source_line(node) for node in new] == [source_line(old)] * 2


# ---- attention_to_4d -----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def forward(self, q, k, mask=None):
        return F.scaled_dot_product_attention(q, k, k, mask, enable_gqa=q.dim() > 2 and q.shape[-3] != k.shape[-3])


@pytest.mark.parametrize(
    ("q", "k", "mask"),
    [
        ((6, 8), (5, 8), None),
        ((4, 6, 8), (4, 5, 8), None),
        ((4, 6, 8), (4, 5, 8), (6, 5)),
        ((4, 6, 8), (4, 5, 8), (4, 6, 5)),
        ((2, 3, 4, 6, 8), (2, 3, 4, 5, 8), None),
        ((2, 3, 4, 6, 8), (2, 3, 2, 5, 8), None),
        ((2, 3, 4, 6, 8), (2, 3, 4, 5, 8), (4, 1, 5)),
        ((2, 3, 4, 6, 8), (2, 3, 4, 5, 8), (2, 3, 1, 6, 5)),
        ((2, 3, 1, 4, 6, 8), (2, 3, 1, 4, 5, 8), (6, 1)),
    ],
)
def test_attention_of_any_rank_becomes_one_of_four_dims(q, k, mask):
    args = tuple(torch.randn(s, dtype=torch.double) for s in (q, k, mask) if s)
    program = rewrite("attention_to_4d", capture(Attention(), args, dynamic=None))
    (call,) = program.find("aten.scaled_dot_product_attention")
    assert all(operand.meta["val"].dim() == 4 for operand in call.args[:3])
    torch.testing.assert_close(program(*args), Attention()(*args), rtol=1e-12, atol=1e-12)


def test_attention_with_a_dynamic_batch_becomes_one_of_four_dims():
    program = rewrite("attention_to_4d", capture(Attention(), (torch.randn(2, 3, 4, 6, 8), torch.randn(2, 3, 4, 5, 8))))
    args = torch.randn(5, 3, 4, 6, 8), torch.randn(5, 3, 4, 5, 8)
    torch.testing.assert_close(program(*args), Attention()(*args))


@pytest.mark.parametrize(
    ("k", "mask"), [((1, 3, 4, 5, 8), None), ((2, 3, 4, 5, 8), (3, 1, 6, 5)), ((3, 4, 5, 8), None)]
)
def test_attention_with_broadcast_leading_sizes_stays_with_the_reason(k, mask):
    args = tuple(torch.randn(s) for s in ((2, 3, 4, 6, 8), k, mask) if s)
    step = Pipeline.parse("attention_to_4d").run(capture(Attention(), args, dynamic=None)).steps[0]
    assert not step.changed
    assert "are broadcast" in step.skips[0].reason


# ---- split_attention -----------------------------------------------------------------------------------------------


class Masked(nn.Module):
    def __init__(self, mask=None, **options):
        super().__init__()
        self.register_buffer("mask", mask)
        self.options = options

    def forward(self, q, k, v, mask=None):
        return F.scaled_dot_product_attention(q, k, v, self.mask if mask is None else mask, **self.options)


_KEYS = torch.tensor([[True, False, True, True, False]])


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        (None, {}),
        (None, {"scale": 0.3}),
        (None, {"scale": 0.0}),
        (None, {"is_causal": True}),
        (_KEYS.repeat(6, 1), {}),
        (_KEYS, {"scale": 2.0}),
        (torch.randn(3, 1, 6, 5, dtype=torch.double).masked_fill(~_KEYS, -torch.inf), {}),
    ],
)
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_attention_becomes_products_and_a_softmax(mask, options, lead):
    if mask is not None and mask.dim() > 2 and len(lead) < 2:
        mask = mask[0, 0]
    args = tuple(torch.randn(*lead, *size, dtype=torch.double) for size in ((6, 8), (5, 8), (5, 7)))
    if mask is not None and mask.dim() == 4:
        args = tuple(torch.cat([arg, arg[:1]]) for arg in args)
    net = Masked(mask, **options)
    program = rewrite("split_attention", capture(net, args, dynamic=None))
    assert not list(program.find("aten.scaled_dot_product_attention"))
    assert len(list(program.find("aten.matmul"))) == 2
    torch.testing.assert_close(program(*args), net(*args), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("net", "given", "why"),
    [
        (Masked(), torch.randn(6, 5), "its mask is computed"),
        (Masked(torch.zeros(6, 5, dtype=torch.bool)), None, "leaves a row without any key"),
        (Masked(torch.full((6, 5), -torch.inf)), None, "leaves a row without any key"),
        (Masked(enable_gqa=True), None, "its heads share keys"),
    ],
)
def test_attention_that_cannot_be_split_stays_whole_with_the_reason(net, given, why):
    args = tuple(torch.randn(2, *size) for size in ((4, 6, 8), (2, 5, 8), (2, 5, 8)))
    if not net.options:
        args = tuple(arg[:, :1] for arg in args)
    args = args if given is None else (*args, given)
    step = Pipeline.parse("split_attention").run(capture(net, args, dynamic=None)).steps[0]
    assert not step.changed
    assert why in step.skips[0].reason


# ---- split_rms_norm ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "eps", "affine"), [((8,), None, True), ((3, 8), 1e-3, False)])
def test_an_rms_norm_becomes_products(dims, eps, affine):
    torch.manual_seed(0)
    norm, x = nn.RMSNorm(dims, eps=eps, elementwise_affine=affine), torch.randn(2, 3, 8)
    program = rewrite("split_rms_norm", capture(norm, (x,)))  # proved in float64
    assert not any(program.find("aten.rms_norm"))
    assert torch.allclose(program(x), norm(x), atol=1e-6)


def test_an_rms_norm_in_half_precision_is_computed_in_float32():
    norm, x = nn.RMSNorm(8).bfloat16(), torch.randn(2, 8).bfloat16()
    program = rewrite("split_rms_norm", capture(norm, (x,)))
    assert program(x).dtype == torch.bfloat16
    assert torch.equal(program(x), norm(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_rms_norm_without_an_eps_is_proved_with_that_of_its_dtype(dtype):
    name = {torch.float32: "f32", torch.float16: "f16"}[dtype]
    program = parse_program(f"%x : {name}[3,5]; %w : {name}[5]; %y = aten.rms_norm(%x, [5], %w); return %y")
    split = Pipeline.parse("split_rms_norm").run(program).program  # with the proof
    x, w = torch.randn(3, 5, dtype=dtype) * 1e-3, torch.randn(5, dtype=dtype)
    torch.testing.assert_close(split(x, w), torch.nn.functional.rms_norm(x, [5], w))
