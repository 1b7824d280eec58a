"""fold_constant_channels: the numbers stay, the columns are zero, and what is left alone has a reason."""

import pytest
import torch

from fxopt import Pipeline
from fxopt.ir.parser import canonical_text, parse_program

pytestmark = pytest.mark.usefixtures("one_thread")

MAP = "%x : f32[batch,3,6,6]\n%z = aten.slice.Tensor(%x, 1, 0, 2); %o = aten.full_like(%z, 1.5)\n"
MIXED = MAP + "%h = aten.cat([%x, %o, %x], 1)\n"  # channels 3 and 4 of 8 are 1.5
COLUMNS = [3, 4]
TOKENS = MIXED + "%t = aten.permute(%h, [0, 2, 3, 1])\n"
WEIGHTS = {
    "w33": "4,8,3,3", "w11": "4,8,1,1", "g33": "4,4,3,3", "d33": "8,1,3,3", "t33": "8,4,3,3", "l": "4,8", "m": "8,4",
    "b": "4", "b8": "8", "run": "4", "b2": "72,4",
}  # fmt: skip

STATISTICS = {"run": "running_b"}  # a buffer: torch lets no parameter be written to


def fold(text, verify=False):
    """The program, what it became, and the reasons."""
    params = "".join(
        f'%{n} = param "a.{STATISTICS.get(n, n)}" : f32[{shape}]; ' for n, shape in WEIGHTS.items() if f"%{n}" in text
    )
    program = parse_program(params.rstrip("; ") + "\n" + text)
    outcome = Pipeline.parse("fold_constant_channels").run(program, **({} if verify else {"watchers": ()}))
    return program, outcome.program, [skip.reason for step in outcome.steps for skip in step.skips]


@pytest.mark.parametrize(
    ("text", "weight", "columns"),
    [
        (MIXED + "%y = aten.conv2d(%h, %w33, %b)", "a.w33", COLUMNS),
        (MIXED + "%y = aten.conv2d(%h, %w33)", "a.w33", COLUMNS),
        (MIXED + "%y = aten.conv2d(%h, %w33, %b, [2, 2], [0, 0], [2, 2])", "a.w33", COLUMNS),
        (MIXED + "%y = aten.conv2d.padding(%h, %w33, %b, [1, 1], 'valid')", "a.w33", COLUMNS),
        (MIXED + "%y = aten.conv2d.padding(%h, %w11, %b, [1, 1], 'same')", "a.w11", COLUMNS),
        (MIXED + "%s = aten.select.int(%h, 0, 0); %y = aten.conv2d(%s, %w33, %b)", "a.w33", COLUMNS),
        (TOKENS + "%y = aten.linear(%t, %l, %b)", "a.l", COLUMNS),
        (TOKENS + "%y = aten.linear(%t, %l)", "a.l", COLUMNS),
        (TOKENS + "%y = aten.matmul(%t, %m)", "a.m", COLUMNS),
        (TOKENS + "%f = aten.reshape(%t, [-1, 8]); %y = aten.mm(%f, %m)", "a.m", COLUMNS),
        (TOKENS + "%f = aten.reshape(%t, [-1, 8]); %y = aten.addmm(%b, %f, %m)", "a.m", COLUMNS),
        (MIXED + "%p = aten.adaptive_avg_pool2d(%h, [1, 1]); %f = aten.flatten.using_ints(%p, 1); "
         "%y = aten.linear(%f, %l, %b)",
         "a.l", COLUMNS),
    ],
)  # fmt: skip
def test_contributions_move_into_the_bias(text, weight, columns):
    before, after, reasons = fold(text, verify=True)
    assert not reasons
    old, new = before.tensors()[weight], after.tensors()[weight]
    dim = 0 if weight == "a.m" else 1
    others = [c for c in range(old.shape[dim]) if c not in columns]
    assert not new.index_select(dim, torch.tensor(columns)).any()
    assert torch.equal(new.index_select(dim, torch.tensor(others)), old.index_select(dim, torch.tensor(others)))
    x = torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(after(x), before(x))
    again = Pipeline.parse("fold_constant_channels").run(after, watchers=())
    assert not again.steps[0].changed


def test_groups_and_depthwise_have_their_own_columns():
    """Of two groups of four, channel 3 is the last of the first and channel 4 the first of the second."""
    _, after, _ = fold(MIXED + "%y = aten.conv2d(%h, %g33, %b, [1, 1], [0, 0], [1, 1], 2)", verify=True)
    zero = (after.tensors()["a.g33"] == 0).all(-1).all(-1)
    assert zero.tolist() == [[False] * 3 + [True]] * 2 + [[True] + [False] * 3] * 2
    before, after, _ = fold(MIXED + "%y = aten.conv2d(%h, %d33, %b8, [1, 1], [0, 0], [1, 1], 8)", verify=True)
    assert (after.tensors()["a.d33"] == 0).flatten(1).all(1).tolist() == [c in COLUMNS for c in range(8)]
    x = torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(after(x), before(x))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MIXED + "%y = aten.conv2d(%h, %w33, %b, [1, 1], [1, 1])", "2 of 8 channels it reads are constant, but it pads"),
        (MIXED + "%y = aten.conv2d(%h, %w11, %b, [1, 1], [0, 1])", "it pads with zeros"),
        (MIXED + "%y = aten.conv2d.padding(%h, %w33, %b, [1, 1], 'same')", "it pads with zeros"),
        (MIXED + "%y = aten.conv_transpose2d.input(%h, %t33, %b)", "does not spread them evenly"),
        (MIXED + "%e = aten.exp(%w33); %y = aten.conv2d(%h, %e, %b)", "computed, not stored"),
        (TOKENS + "%e = aten.exp(%b); %y = aten.linear(%t, %l, %e)", "computed, not stored"),
        (TOKENS + "%f = aten.reshape(%t, [-1, 8]); %y = aten.addmm(%b, %f, %m, beta=2)", "scales its bias"),
        (TOKENS + "%u = aten.slice.Tensor(%t, 0, 0, 2); %f = aten.reshape(%u, [72, 8]); "
         "%y = aten.addmm(%b2, %f, %m)", "several dims"),
        (TOKENS + "%i = aten.add_.Tensor(%run, 1); %y = aten.linear(%t, %l, %run)", "written to in place"),
        (MIXED + "%e = aten.mul.Tensor(%h, 1e39); %y = aten.conv2d(%e, %w33, %b)", "beyond the range"),
    ],
)  # fmt: skip
def test_what_is_left_alone_has_a_reason(text, reason):
    if "72" in text:
        text = text.replace("batch", "2")
    before, after, reasons = fold(text)
    assert canonical_text(before) == canonical_text(after)
    assert len(reasons) == 1
    assert reason in reasons[0]


@pytest.mark.parametrize(
    "text",
    [
        MIXED.replace("1.5", "0.0") + "%y = aten.conv2d(%h, %w33, %b)",  # zeros contribute nothing
        "%x : f32[batch,8,6,6]\n%y = aten.conv2d(%x, %w33, %b)",
        TOKENS + "%s = aten.softmax.int(%t, -1); %y = aten.linear(%s, %l)",
        TOKENS + "%c = aten.cumsum(%t, 1); %y = aten.linear(%c, %l)",  # constant, but another one at each position
        '%x : f32[batch,4]\n%k = param "k" : f32[4,4]; %s = aten.matmul(%k, %k); %y = aten.matmul(%x, %s)',
    ],
)  # fmt: skip
def test_nothing_to_fold(text):
    before, after, reasons = fold(text)
    assert not reasons
    assert canonical_text(before) == canonical_text(after)
    assert all(torch.equal(tensor, after.tensors()[name]) for name, tensor in before.tensors().items())


def test_a_shared_weight_and_bias_keep_their_values_for_the_others():
    text = (
        TOKENS
        + "%y = aten.linear(%t, %l, %b); %e = aten.exp(%t); %v = aten.linear(%e, %l, %b); %p = aten.permute(%x, [0, 2, 3, 1])\n"
    )
    text += "%q = aten.cat([%p, %p, %p], 3); %r = aten.slice.Tensor(%q, 3, 0, 8); %u = aten.linear(%r, %l, %b)\nreturn %y, %v, %u"
    before, after, _ = fold(text, verify=True)
    assert torch.equal(after.tensors()["a.l"], before.tensors()["a.l"])
    x = torch.randn(3, 3, 6, 6)
    for a, b in zip(after(x), before(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_layers_in_a_row_are_folded_in_one_run():
    """A matmul whose result is constant, read by a linear."""
    text = '%x : f32[batch,8]\n%o = aten.full_like(%x, 2.0); %p = param "m" : f32[8,8]; %q = param "l" : f32[4,8]\n'
    _, after, reasons = fold(text + "%a = aten.matmul(%o, %p); %y = aten.linear(%a, %q)", verify=True)
    assert not reasons
    assert not after.tensors()["m"].any()
    assert not after.tensors()["l"].any()


def test_batch_norm_beta_of_filters_that_are_zero():
    """The case that it is for: a filter zeroed before a batch norm leaves the constant beta - mean · s behind relu."""
    text = (
        '%x : f32[batch,3,6,6]\n%w = param "w" : f32[4,3,3,3]; %g = param "g" : f32[4]; %t = param "t" : f32[4]\n'
        '%m = param "running_mean" : f32[4]; %v = param "running_var" : f32[4]; %k = param "k" : f32[2,4,1,1]\n'
        "%c = aten.conv2d(%x, %w); %n = aten.batch_norm(%c, %g, %t, %m, %v, False, 0.1, 1e-05, False)\n"
        "%r = aten.relu(%n); %y = aten.conv2d(%r, %k)"
    )
    program = parse_program(text)
    with torch.no_grad():
        program.tensors()["w"][1:3] = 0.0
        program.tensors()["t"][1], program.tensors()["t"][2] = 5.0, -5.0
    after = Pipeline.parse("fold_constant_channels").run(program).program
    zero = (after.tensors()["k"] == 0).flatten(1).all(0)
    assert zero.tolist() == [False, True, False, False]  # channel 2 is zero behind relu: nothing to move


def test_a_weight_times_itself_is_left_alone():
    program = parse_program(
        '%x : f32[batch,4]\n%k = param "k" : f32[4,4]; %s = aten.matmul(%k, %k); %y = aten.matmul(%x, %s)'
    )
    with torch.no_grad():
        program.tensors()["k"][:, 0] = 2.0  # the first channel is constant, the others are not
    after = Pipeline.parse("fold_constant_channels").run(program, watchers=()).program
    x = torch.randn(3, 4)
    assert torch.equal(after(x), program(x))
