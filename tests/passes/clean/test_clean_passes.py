"""drop_noop, fold_constants and merge_duplicates as text before and after; torch runs both for the numbers.

Verification is left out, so that what stands here does not lean on it.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fxopt import Pipeline, capture
from fxopt.ir.parser import canonical_text as text_of
from fxopt.ir.parser import parse_program
from fxopt.ir.printer import op_name


def clean(spec, program):
    """The program after the passes, and their reasons for what they left alone."""
    outcome = Pipeline.parse(spec).run(program, watchers=())
    return outcome.program, [skip.reason for step in outcome.steps for skip in step.skips]


def assert_kept(spec, text, *reasons):
    program = parse_program(text)
    after, got = clean(spec, program)
    assert text_of(after) == text_of(program)
    assert len(got) == len(reasons)
    assert all(want in reason for want, reason in zip(reasons, got, strict=True)), got


def assert_becomes(spec, before, expected):
    after, _ = clean(spec, parse_program(before))
    assert text_of(after) == text_of(parse_program(expected))
    return after


# ---- drop_noop: every %y of the first list is %h, every one of the second is not -----------------------------------

BODY = "%x : f32[2,3,4,4]\n%h = aten.neg(%x)\n{}\n%z = aten.exp(%y)\nreturn %z"

SAME = (
    "%y = aten.dropout(%h, 0.5, False)", "%y = aten.dropout(%h, p=0.5, train=False)",
    "%y = aten.feature_dropout(%h, 0.5, False)", "%y = aten.alpha_dropout(%h, 0.5, False)",
    "%y = aten.feature_alpha_dropout(%h, 0.5, False)",
    "%y = aten.clone(%h)", "%y = aten.contiguous(%h)", "%y = aten.detach(%h)", "%y = aten.alias(%h)",
    "%y = aten.lift_fresh_copy(%h)",
    "%y = aten.to.dtype(%h, f32)", "%y = aten.to.dtype(%h, f32, False, True)", "%y = aten.to.dtype_layout(%h, dtype=f32)",
    "%y = aten.to.device(%h, 'cpu', f32)", "%y = aten.type_as(%h, %x)", "%y = aten._to_copy(%h)",
    "%y = aten.view(%h, [2, 3, 4, -1])", "%y = aten.reshape(%h, [2, -1, 4, 4])", "%y = aten._unsafe_view(%h, [2, 3, 4, 4])",
    "%y = aten.flatten.using_ints(%h, 1, 1)", "%y = aten.expand(%h, [-1, 3, -1, 4])", "%y = aten.expand_as(%h, %x)",
    "%y = aten.view_as(%h, %x)", "%y = aten.squeeze(%h)", "%y = aten.squeeze.dim(%h, 1)", "%y = aten.squeeze.dims(%h, [0, 3])",
    "%y = aten.slice.Tensor(%h, 1, 0, 3)", "%y = aten.slice.Tensor(%h, -1)", "%y = aten.slice.Tensor(%h, 2, -4, 9)",
    "%y = aten.mul.Tensor(%h, 1)", "%y = aten.mul.Tensor(%h, other=1.0)", "%y = aten.div.Tensor(%h, 1)",
    "%y = aten.pad(%h, [0, 0, 0, 0], 'reflect')",
    "%y = aten.permute(%h, [0, 1, -2, 3])", "%y = aten.transpose.int(%h, 1, -3)",
    "%p = aten.permute(%h, [0, 2, 3, 1]); %y = aten.permute(%p, [0, 3, 1, 2])",
    "%p = aten.transpose.int(%h, 1, 2); %y = aten.transpose.int(%p, -2, -3)",
    "%p = aten.transpose.int(%h, 2, 3); %y = aten.permute(%p, [0, 1, 3, 2])",
    "%p = aten.clone(%h); %q = aten.mul.Tensor(%p, 1); %y = aten.view(%q, [2, 3, 4, 4])",
)  # fmt: skip

OTHER = (
    "%y = aten.clone(%h, memory_format=torch.channels_last)", "%y = aten.contiguous(%h, memory_format=torch.channels_last)",
    "%p = aten.permute(%h, [0, 2, 3, 1]); %y = aten.contiguous(%p)",
    "%y = aten.to.dtype(%h, f16)", "%y = aten.to.dtype_layout(%h, dtype=f64)", "%y = aten.to.device(%h, 'cpu', bf16)",
    "%y = aten.to.dtype(%h, f32, False, False, torch.channels_last)", "%y = aten._to_copy(%h, dtype=f64)",
    "%d = aten.to.dtype(%x, f64); %y = aten.type_as(%h, %d)",
    "%y = aten.view(%h, [2, 3, 16])", "%y = aten.reshape(%h, [3, 2, 4, 4])", "%y = aten._unsafe_view(%h, [6, 4, 4])",
    "%y = aten.flatten.using_ints(%h, 1, 2)", "%y = aten.expand(%h, [1, 2, 3, 4, 4])",
    "%k = aten.sum.dim_IntList(%h, [1], True); %y = aten.expand(%k, [2, 3, 4, 4])",
    "%k = aten.sum.dim_IntList(%h, [1], True); %y = aten.expand_as(%k, %h)",
    "%k = aten.sum.dim_IntList(%h, [1], True); %y = aten.squeeze(%k)",
    "%k = aten.sum.dim_IntList(%h, [1], True); %y = aten.squeeze.dim(%k, 1)",
    "%k = aten.sum.dim_IntList(%h, [1], True); %y = aten.squeeze.dims(%k, [0, 1])",
    "%k = aten.flatten.using_ints(%x, 1); %y = aten.view_as(%h, %k)",
    "%y = aten.slice.Tensor(%h, 1, 0, 2)", "%y = aten.slice.Tensor(%h, 1, 1)", "%y = aten.slice.Tensor(%h, 3, 0, 4, 2)",
    "%y = aten.mul.Tensor(%h, -1)", "%y = aten.mul.Tensor(%h, %h)", "%y = aten.div.Tensor(%h, 2)",
    "%y = aten.add.Tensor(%h, 0)", "%y = aten.pad(%h, [0, 1])", "%y = aten.pad(%h, [1, -1])",
    "%y = aten.permute(%h, [0, 1, 3, 2])", "%y = aten.transpose.int(%h, 2, 3)",
    "%p = aten.permute(%h, [0, 2, 3, 1]); %y = aten.permute(%p, [0, 2, 3, 1])",
    "%p = aten.transpose.int(%h, 1, 2); %y = aten.transpose.int(%p, 2, 3)",
    "%i = aten.to.dtype(%h, i64); %y = aten.mul.Tensor(%i, 1.0)", "%i = aten.to.dtype(%h, i64); %y = aten.div.Tensor(%i, 1)",
    "%p = aten.relu(%h); %y = aten.relu6(%p)",
)  # fmt: skip


@pytest.mark.parametrize("lines", SAME)
def test_what_hands_back_its_operand_is_dropped(lines):
    program = parse_program(BODY.format(lines))
    after = assert_becomes("drop_noop", BODY.format(lines), BODY.format("").replace("%y", "%h"))
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(after(x), program(x))


@pytest.mark.parametrize("lines", OTHER)
def test_the_nearest_that_does_something_is_kept(lines):
    assert_kept("drop_noop", BODY.format(lines))


@pytest.mark.parametrize("op", ["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"])
def test_dropout_in_training_is_kept_with_a_reason(op):
    assert_kept("drop_noop", BODY.format(f"%y = aten.{op}(%h, 0.5, train=True)"), "train=True")


@pytest.mark.parametrize("op", ["relu", "abs"])
def test_twice_is_once(op):
    twice = f"%r = aten.{op}(%h); %s = aten.{op}(%r); %y = aten.{op}(%s)"
    assert_becomes("drop_noop", BODY.format(twice), BODY.format(f"%y = aten.{op}(%h)"))


@pytest.mark.parametrize(
    ("shape", "lines"),
    [
        ("2,3", "%p = aten.t(%x); %y = aten.t(%p)"),
        ("4", "%y = aten.t(%x)"),
        ("", "%y = aten.t(%x)"),
        ("", "%y = aten.transpose.int(%x, 0, -1)"),
        ("", "%y = aten.permute(%x, [])"),
    ],
)
def test_a_transpose_in_fewer_than_three_dims(shape, lines):
    before = f"%x : f32[{shape}]\n{lines}\n%z = aten.neg(%y)"
    assert_becomes("drop_noop", before, f"%x : f32[{shape}]\n%z = aten.neg(%x)")


@pytest.mark.parametrize(
    ("cut", "whole"),
    [("0, 0, 9223372036854775807", True), ("0, 0, %n", True), ("0, 0, 2", False), ("0, 0, 5", False), ("0, -5", False),
     ("1, 0, %n", False), ("0, 0, %m", False)],
)  # fmt: skip
def test_a_slice_of_a_dynamic_size_is_dropped_only_if_it_is_whole_at_every_size(cut, whole):
    """The example has 2 rows and 8 columns: every slice of rows is whole there."""
    program = parse_program(
        "%x : f32[rows,columns]\n%n = aten.sym_size.int(%x, 0); %m = aten.sym_size.int(%x, 1)\n%h = aten.neg(%x)\n"
        f"%y = aten.slice.Tensor(%h, {cut})\n%z = aten.exp(%y)"
    )
    after, _ = clean("drop_noop", program)
    assert any(after.find("aten.slice")) != whole
    for rows, columns in [(9, 3), (3, 9), (4, 4)]:
        x = torch.randn(rows, columns)
        assert torch.equal(after(x), program(x))


def test_a_crop_to_the_longest_allowed_size_is_dropped():
    class Crop(nn.Module):
        def forward(self, x):
            return x[:, :16].exp()

    program = capture(Crop(), (torch.randn(2, 8),), dynamic={"x": {1: torch.export.Dim.AUTO}})  # not longer than 16
    assert any(program.find("aten.slice"))
    assert not any(clean("drop_noop", program)[0].find("aten.slice"))


@pytest.mark.parametrize(
    "lines",
    [
        "%y = aten.clone(%x); return %y",
        "%y = aten.clone(%x); %v = aten.view(%y, [8]); return %v",
        '%w = param "w" : f32[2,4]; %y = aten.clone(%w); return %y',
        "%h = aten.neg(%x); %y = aten.clone(%h); return %h, %y",
        "%h = aten.neg(%x); %v = aten.view(%h, [8]); %y = aten.mul.Tensor(%h, 1); return %v, %y",
    ],
)
def test_a_copy_keeps_an_output_from_sharing_memory(lines):
    assert_kept("drop_noop", f"%x : f32[2,4]\n{lines}", "an output would share memory with an input, a weight or")


def test_a_copy_that_keeps_nothing_apart_is_dropped():
    before = "%x : f32[2,4]\n%h = aten.neg(%x); %y = aten.clone(%h); %v = aten.view(%x, [2, 4]); return %y, %v"
    assert_becomes("drop_noop", before, "%x : f32[2,4]\n%h = aten.neg(%x)\nreturn %h, %x")


@pytest.mark.parametrize("written", ["%c", "%h", "%v"])
def test_a_copy_stays_where_memory_is_written_to(written):
    before = "%x : f32[2,4]\n%h = aten.neg(%x); %v = aten.flatten.using_ints(%h); %c = aten.clone(%h)\n"
    write = f"%w = aten.add_.Tensor({written}, 1); %y = aten.sub.Tensor(%h, %c); return %y, %v"
    assert_kept("drop_noop", before + write, "is written to in place")


# ---- fold_constants ------------------------------------------------------------------------------------------------


def test_a_chain_is_stored_once_in_its_dtype_under_the_name_of_its_last():
    program = parse_program(
        '%x : f32[2,6]\n%w = param "w" : f32[6,4]\n%h = aten.to.dtype(%w, f64); %t = aten.t(%h); %s = aten.mul.Tensor(%t, 2)\n'
        "%b = aten.to.dtype(%s, f32); %y = aten.linear(%x, %b); %z = aten.matmul(%y, %b)"
    )
    after, _ = clean("fold_constants", program)
    weights = after.tensors()
    assert list(weights) == ["b"]
    assert torch.equal(weights["b"], program.tensors()["w"].t() * 2)
    assert weights["b"].is_contiguous()


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(0, 140))
def test_a_result_is_stored_if_it_grows_by_no_more_than_allowed(rows, allowed):
    text = f'%x : f32[2,4]\n%w = param "w" : f32[4]\n%e = aten.expand(%w, [{rows}, 4]); %y = aten.linear(%x, %e)'
    after, reasons = clean(f"fold_constants(max_growth={allowed})", parse_program(text))
    growth = (rows - 1) * 4 * 4  # float32
    assert any(after.find("aten.expand")) == (growth > allowed)
    expected = f"storing it would add {growth} bytes, more than max_growth={allowed}"
    assert reasons == ([expected] if growth > allowed else [])


@pytest.mark.parametrize("name", ["w", "tied"])
def test_a_weight_that_others_read_too_saves_nothing(name):
    """A tied embedding: with its transpose stored beside it, the file would hold the weight twice."""
    program = parse_program(
        f'%t : i64[2]\n%x : f32[2,8]\n%w = param "w" : f32[100,8]\n%v = param "{name}" : f32[100,8]\n'
        "%e = aten.embedding(%w, %t); %s = aten.t(%v); %y = aten.matmul(%x, %s)\nreturn %e, %y"
    )
    setattr(program.module, name, program.module.w)
    _, reasons = clean("fold_constants(max_growth=3199)", program)
    assert reasons == ["storing it would add 3,200 bytes, more than max_growth=3,199"]


def test_slices_of_one_weight_take_its_place():
    """The query, key and value of attention, each a slice of one weight that nothing else reads."""
    before = (
        '%x : f32[2,100]\n%w = param "w" : f32[200,100]\n'
        "%a = aten.slice.Tensor(%w, 0, 0, 100); %b = aten.slice.Tensor(%w, 0, 100)\n"
        "%y = aten.linear(%x, %a); %z = aten.linear(%y, %b)"
    )
    after, reasons = clean("fold_constants(max_growth=0)", parse_program(before))
    assert reasons == []
    assert [tuple(t.shape) for t in after.tensors().values()] == [(100, 100), (100, 100)]


@pytest.mark.parametrize(
    "lines",
    [
        "%r = aten.rand([4])",
        "%r = aten.rand_like(%w)",
        "%r = aten.dropout(%w, 0.5, True)",
        "%q = aten.view(%w, [1, 2, 2]); %s = aten.scaled_dot_product_attention(%q, %q, %q, None, 0.5); %r = aten.view(%s, [4])",
    ],
)
def test_what_draws_random_numbers_is_drawn_anew(lines):
    program = parse_program(f'%x : f32[2,4]\n%w = param "w_scale" : f32[4]\n{lines}\n%y = aten.mul.Tensor(%x, %r)')
    after, _ = clean("fold_constants", program)
    x = torch.ones(2, 4)
    assert len({tuple(after(x).flatten().tolist()) for _ in range(20)}) > 1


def test_quantize_and_dequantize_of_weights_stay():
    text = """
        %x : f32[2,8]
        %w = param "w" : f32[4,8]
        %s = param "w_scale" : f32[4]
        %o = param "w_zero_point" : i8[4]
        %q = quantized_decomposed.quantize_per_channel(%w, %s, %o, 0, -127, 127, i8)
        %d = quantized_decomposed.dequantize_per_channel(%q, %s, %o, 0, -127, 127, i8)
        %y = aten.linear(%x, %d)
        return %y
    """
    assert_kept("fold_constants", text)


@pytest.mark.parametrize(
    "lines",
    [
        "%c = aten.neg(%w); return %c",
        "%c = aten.neg(%w); %y = aten.add.Tensor(%x, %c); return %y, %c",
        "%c = aten.neg(%w); %n = aten.sym_size.int(%x, 0); %v = aten.expand(%c, [%n, 4]); return %v",
    ],
)
def test_a_caller_is_never_handed_a_stored_constant(lines):
    """Not as a view either: what is written into it, the next call would see."""
    assert_kept("fold_constants", f'%x : f32[batch,4]\n%w = param "w" : f32[4]\n{lines}', "an output shares its memory")


@pytest.mark.parametrize("read", ["running_count", "running_tied"])
def test_a_weight_that_is_written_to_is_no_constant(read):
    program = parse_program(
        f'%x : f32[4]\n%w = param "running_count" : f32[4]\n%v = param "{read}" : f32[4]\n'
        "%n = aten.neg(%v); %a = aten.add_.Tensor(%w, 1); %y = aten.mul.Tensor(%x, %n)\nreturn %y"
    )
    setattr(program.module, read, program.module.running_count)  # one buffer under two names
    after, _ = clean("fold_constants", program)
    first, second = after(torch.ones(4)).clone(), after(torch.ones(4))
    assert torch.equal(second, first - 1)


# ---- merge_duplicates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("f32", "aten.mul.Tensor(%x, 0.0)", "aten.mul.Tensor(%x, -0.0)"),
        ("i64", "aten.mul.Tensor(%x, 1)", "aten.mul.Tensor(%x, 1.0)"),
        ("bool", "aten.mul.Tensor(%x, 1)", "aten.mul.Tensor(%x, True)"),
        ("f32", "aten.add.Tensor(%x, %x)", "aten.add.Tensor(%x, %x, alpha=2)"),
        ("f32", "aten.sum.dim_IntList(%x, [0])", "aten.sum.dim_IntList(%x, [0], dtype=f64)"),
        ("f32", "aten.sum.dim_IntList(%x, [0], True)", "aten.sum.dim_IntList(%x, [0], False)"),
    ],
)
def test_calls_that_differ_a_little_are_two(kind, first, second):
    text = f"%x : {kind}[4]\n%a = {first}; %b = {second}; %c = aten.reciprocal(%a); %d = aten.reciprocal(%b)\nreturn %c, %d"
    assert_kept("merge_duplicates", text)


@pytest.mark.parametrize(
    "second",
    [
        "aten.conv1d(%x, %w, None, [1], [0])",
        "aten.conv1d(%x, weight=%w, groups=1)",
        "aten.conv1d(%x, bias=None, weight=%w)",
    ],
)
def test_two_spellings_of_one_call_are_one(second):
    head = '%x : f32[2,3,4]\n%w = param "w" : f32[3,3,1]\n%a = aten.conv1d(%x, %w)\n'
    assert_becomes(
        "merge_duplicates",
        f"{head}%b = {second}; %z = aten.add.Tensor(%a, %b)\nreturn %z",
        f"{head}%z = aten.add.Tensor(%a, %a)\nreturn %z",
    )


def test_what_follows_two_duplicates_is_merged_too():
    before = (
        "%x : f32[2,4]\n%a = aten.relu(%x); %b = aten.relu(%x); %c = aten.chunk(%a, 2, 1); %d = aten.chunk(%b, 2, 1)\n"
        "%e = getitem(%c, 1); %f = getitem(%d, 1); %g = getitem(%d, 0); %h = aten.stack([%e, %f, %g])"
    )
    expected = (
        "%x : f32[2,4]\n%a = aten.relu(%x); %c = aten.chunk(%a, 2, 1)\n"
        "%e = getitem(%c, 1); %g = getitem(%c, 0); %h = aten.stack([%e, %e, %g])"
    )
    assert_becomes("merge_duplicates", before, expected)


@pytest.mark.parametrize(
    "call",
    ["rand_like(%x)", "dropout(%x, 0.5, True)", "scaled_dot_product_attention(%x, %x, %x, None, 0.5)", "bernoulli(%p)"],
)
def test_random_numbers_are_drawn_twice(call):
    text = f"%x : f32[1,4,4]\n%p = aten.sigmoid(%x); %a = aten.{call}; %b = aten.{call}; %y = aten.stack([%a, %b, %p])"
    assert_kept("merge_duplicates", text)


@pytest.mark.parametrize("view", ["aten.view(%m, [8])", "aten.dropout(%m, 0.5, False)"])
def test_a_value_read_before_and_after_a_write_is_two(view):
    text = (
        f"%x : f32[2,4]\n%m = aten.mul.Tensor(%x, 2); %v = {view}\n"
        "%a = aten.neg(%m); %w = aten.add_.Tensor(%v, 1); %b = aten.neg(%m); %z = aten.sub.Tensor(%a, %b)\nreturn %z"
    )
    assert_kept("merge_duplicates", text)


def test_memory_that_is_written_to_is_not_shared():
    text = (
        "%x : f32[4]\n%a = aten.neg(%x); %b = aten.neg(%x); %w = aten.add_.Tensor(%a, 1); %z = aten.sub.Tensor(%b, %w)"
    )
    assert_kept("merge_duplicates", text)


@pytest.mark.parametrize("first", ["", "%n = aten.relu(%x); %m = aten.neg(%n); "])
def test_two_outputs_stay_two_tensors(first):
    """Also where both are the double of a third that is no output."""
    outputs = "%m, %a, %b" if first else "%a, %b"
    program = parse_program(f"%x : f32[4]\n{first}%a = aten.relu(%x); %b = aten.relu(%x)\nreturn {outputs}")
    after, reasons = clean("merge_duplicates", program)
    *_, a, b = after(torch.randn(4))
    assert a.data_ptr() != b.data_ptr()
    assert len(reasons) == 1
    assert "are both outputs, and must not share memory" in reasons[0]
    assert len(list(after.find("aten.relu"))) == 2


def test_an_output_may_be_the_double_of_what_is_none():
    before = (
        "%x : f32[4]\n%a = aten.relu(%x); %v = aten.view(%a, [2, 2]); %n = aten.neg(%v)\n"
        "%b = aten.relu(%x); %w = aten.view(%b, [2, 2])\nreturn %n, %w"
    )
    expected = "%x : f32[4]\n%a = aten.relu(%x); %v = aten.view(%a, [2, 2]); %n = aten.neg(%v)\nreturn %n, %v"
    after, reasons = clean("merge_duplicates", parse_program(before))
    assert text_of(after) == text_of(parse_program(expected))
    assert reasons == []


def test_reads_of_a_tied_weight_are_one_and_of_equal_weights_two():
    program = parse_program(
        '%x : f32[2,4]\n%a = param "a" : f32[4,4]\n%b = param "b" : f32[4,4]\n%c = param "c" : f32[4,4]\n'
        "%k = aten.linear(%x, %a); %l = aten.linear(%x, %b); %m = aten.linear(%x, %c); %y = aten.stack([%k, %l, %m])"
    )
    program.module.b = program.module.a
    program.module.c = nn.Parameter(program.module.a.detach().clone())
    after, _ = clean("merge_duplicates", program)
    assert list(after.tensors()) == ["a", "c"]
    assert len(list(after.find("aten.linear"))) == 2


def test_memory_that_is_filled_in_place_is_folded_as_it_is_when_read():
    class Filled(torch.nn.Module):
        """A mask filled piece by piece, and a bias of which a copy is partly zeroed, as in window attention."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 6)

        def forward(self, x):
            mask = x.new_zeros(4, 4)
            mask[:2, :2] = 1.0
            mask[2:, 2:] = -2.0
            bias = self.layer.bias.clone()
            bias[2:4].zero_()
            return torch.nn.functional.linear(x + mask.view(2, 8).reshape(4, 4), self.layer.weight, bias)

    model = Filled().eval()
    x = torch.randn(3, 4, 4)
    outcome = Pipeline.parse("fold_constants").run(capture(model, (x,)))
    assert [op_name(n) for n in outcome.program.graph.nodes if n.op == "call_function"] == [
        "aten.add.Tensor",
        "aten.linear",
    ]
    assert torch.equal(outcome.program(x), model(x))
    assert torch.equal(model.layer.bias[2:4] != 0, torch.tensor([True, True])), "the weight itself was not written to"


def test_memory_that_is_read_between_writes_is_left():
    class Twice(torch.nn.Module):
        def forward(self, x):
            mask = torch.zeros(4)
            mask[:2] = 1.0
            y = x + mask
            mask[2:] = 3.0
            return y * mask

    x = torch.randn(3, 4)
    outcome = Pipeline.parse("fold_constants").run(capture(Twice(), (x,)))
    assert torch.equal(outcome.program(x), Twice()(x))


class Writes(nn.Module):
    """Class-token attention as video transformers write it, and a second write into what the first gave."""

    def forward(self, x):
        y = x.exp()
        y[:, 1:, 2:] += x.cos()[:, 1:, 2:]
        y[:, 1:, 2:] = y[:, 1:, 2:].sin()
        y[:, :2].mul_(3.0)
        return y.tanh(), y


def test_writes_into_slices_become_new_tensors():
    x = torch.randn(2, 4, 5)
    outcome = Pipeline.parse("functionalize_writes").run(capture(Writes(), (x,)))
    assert not any(node.target._schema.is_mutable for node in outcome.program.graph.nodes if node.op == "call_function"
                   and hasattr(node.target, "_schema"))  # fmt: skip
    for got, want in zip(outcome.program(x), Writes()(x), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_write_into_one_of_several_results_is_functionalized():
    """As routers of experts normalize their weights; the indices are no view of these."""

    class Router(nn.Module):
        def forward(self, x):
            values, places = x.softmax(-1).topk(2)
            values /= values.sum(-1, keepdim=True)
            return values, places

    program, x = capture(Router(), (torch.randn(3, 5),)), torch.randn(4, 5)
    after = Pipeline.parse("functionalize_writes").run(program).program
    assert not any(node.target._schema.is_mutable for node in after.graph.nodes if hasattr(node.target, "_schema"))
    for got, want in zip(after(x), Router()(x), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


class SeenWrites(nn.Module):
    def forward(self, x):
        y = x.exp()
        view = y[:, 1:]
        y[:, :2].mul_(3.0)
        return view.sin()


def test_a_write_that_another_view_shows_stays():
    program = capture(SeenWrites(), (torch.randn(2, 4),))
    assert not Pipeline.parse("functionalize_writes").run(program).steps[0].changed


def test_a_write_into_a_part_of_a_spectrum_is_functionalized():
    class Spectrum(nn.Module):
        """Keeps the low frequencies; scatters of complex numbers have no gradient."""

        def forward(self, x):
            found, kept = torch.fft.rfft(x), torch.zeros(2, 5, dtype=torch.complex64)
            kept[:, :3] = found[:, :3]
            return torch.fft.irfft(kept, n=8)

    program = capture(Spectrum(), (torch.randn(2, 8),), dynamic=None)
    (step,) = Pipeline.parse("functionalize_writes").run(program).steps
    assert step.changed
