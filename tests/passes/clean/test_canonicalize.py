"""canonicalize_ops and canonicalize_clamp as text before and after; torch runs both for the numbers."""

import pytest
import torch

from fxopt import Pipeline
from fxopt.ir.parser import canonical_text as text_of
from fxopt.ir.parser import parse_program

X = "%x : f32[2,6,4]; "

REWRITTEN = [
    ("%y = aten.add.Tensor(%x, %x, alpha=2)", "%a = aten.mul.Scalar(%x, 2); %y = aten.add.Tensor(%x, %a)"),
    ("%y = aten.sub.Scalar(%x, 3, 2)", "%y = aten.sub.Scalar(%x, 6)"),
    ("%y = aten.hstack([%x, %x])", "%y = aten.cat([%x, %x], 1)"),
    ("%y = aten.vstack([%x, %x])", "%y = aten.cat([%x, %x], 0)"),
    ("%y = aten.squeeze.dim(%x, 1)", "%y = aten.neg(%x)"),
    ("%y = aten.squeeze.dims(%x, [0, 1])", "%y = aten.neg(%x)"),
    ("%y = aten.amax(%x)", "%y = aten.amax(%x, [0, 1, 2])"),
    ("%y = aten.permute(%x, [-1, 0, -2])", "%y = aten.permute(%x, [2, 0, 1])"),
    (
        "%y = aten.channel_shuffle(%x, 3)",
        "%a = aten.unflatten.int(%x, 1, [3, -1]); %b = aten.transpose.int(%a, 1, 2); %y = aten.flatten.using_ints(%b, 1, 2)",
    ),
    (
        "%y = aten.im2col(%x, [3, 2], [1, 1], [1, 0], [1, 1])",
        "%a = aten.unsqueeze(%x, 0); %b = aten.im2col(%a, [3, 2], [1, 1], [1, 0], [1, 1]); %y = aten.squeeze.dim(%b, 0)",
    ),
    (
        "%y = aten.cosine_similarity(%x, %x, 2, 1.5)",  # a norm below 1.5 is in the example
        "%n = aten.linalg_vector_norm(%x, 2, [2], True); %m = aten.clamp(%n, 1.5); %a = aten.div.Tensor(%x, %m); "
        "%o = aten.linalg_vector_norm(%x, 2, [2], True); %p = aten.clamp(%o, 1.5); %b = aten.div.Tensor(%x, %p); "
        "%c = aten.mul.Tensor(%a, %b); %y = aten.sum.dim_IntList(%c, [2])",
    ),
]


def _run(pass_, text):
    return Pipeline.parse(pass_).run(parse_program(text), watchers=()).program


@pytest.mark.parametrize(("before", "after"), REWRITTEN, ids=[before.split("(")[0][10:] for before, _ in REWRITTEN])
def test_one_spelling(before, after):
    given = X + before + "; %z = aten.neg(%y); return %z"
    made = _run("canonicalize_ops", given)
    wanted = parse_program(
        X + (after if "neg" not in after else "") + f"; %z = aten.neg(%{'x' if 'neg' in after else 'y'}); return %z"
    )
    assert text_of(made) == text_of(wanted)
    x = torch.randn(2, 6, 4)
    torch.testing.assert_close(made(x), parse_program(given)(x))


@pytest.mark.parametrize(
    ("inputs", "call"),
    [
        ("%x : f32[3]; %y : f32[3]", "vstack([%x, %y])"),
        ("%x : f32[3]; %y : f32[3]", "hstack([%x, %y])"),
        ("%x : f32[1,4]; %y : f32[]", "squeeze.dims(%x, [0, 1])"),
        ("%x : f32[3,4]; %y : f32[4]", "copy(%x, %y)"),
        ("%x : f32[3,4]; %y : f64[4]", "copy(%x, %y)"),
        ("%x : f32[2,3,4,4]; %y : f32[]", "upsample_nearest2d(%x, [8, 6])"),
        ("%x : f32[2,3,4,4]; %y : f32[]", "upsample_nearest2d(%x, [9, 9], 2.3, 2.3)"),
    ],
)
def test_other_ranks_and_sizes_give_the_same_numbers(inputs, call):
    given = f"{inputs}; %z = aten.{call}; return %z"
    made = _run("canonicalize_ops", given)
    assert text_of(made) != text_of(parse_program(given))
    args = [
        torch.randn(node.meta["val"].shape, dtype=node.meta["val"].dtype)
        for node in made.graph.find_nodes(op="placeholder")
    ]
    assert torch.equal(made(*args), parse_program(given)(*args))


def test_a_scatter_of_a_larger_source_takes_its_corner():
    given = "%x : f32[3,4]; %s : f32[3,6]; %i : i64[2,5]; %y = aten.scatter_add(%x, 1, %i, %s); return %y"
    made = _run("canonicalize_ops", given)
    x, s, i = torch.randn(3, 4), torch.randn(3, 6), torch.randint(4, (2, 5))
    assert torch.equal(made(x, s, i), x.scatter_add(1, i, s))
    scatter = next(made.find("aten.scatter_add"))
    assert scatter.args[3].meta["val"].shape == (2, 5)


@pytest.mark.parametrize("call", ["add.Tensor(%x, %x)", "squeeze.dim(%x, 0)", "amax(%x, [1])", "permute(%x, [1, 0])"])
def test_what_has_the_spelling_is_left(call):
    given = f"%x : f32[1,4]; %y = aten.{call}; return %y"
    assert text_of(_run("canonicalize_ops", given)) == text_of(parse_program(given))


def test_a_gather_by_fewer_indices_reads_as_much():
    given = "%x : f32[3,4]; %i : i64[2,3]; %y = aten.gather(%x, 0, %i); return %y"
    made = _run("canonicalize_ops", given)
    x, i = torch.randn(3, 4), torch.randint(3, (2, 3))
    assert torch.equal(made(x, i), x.gather(0, i))
    assert next(made.find("aten.gather")).args[0].meta["val"].shape == (3, 3)


def test_an_empty_vector_is_left_out_of_a_concatenation():
    given = "%x : f32[3,4]; %e : f32[0]; %y = aten.cat([%x, %e, %x], 1); return %y"
    made = _run("canonicalize_ops", given)
    assert len(next(made.find("aten.cat")).args[0]) == 2


def test_a_clamp_by_tensors_is_left():
    given = "%x : f32[3,4]; %low : f32[4]; %y = aten.clamp.Tensor(%x, %low, None); return %y"
    assert text_of(_run("canonicalize_clamp", given)) == text_of(parse_program(given))


def test_a_clamp_of_integers_stays_one():
    """There is no kernel for a relu of integers in ONNX Runtime."""
    given = "%x : i64[3,4]; %y = aten.clamp(%x, 0); return %y"
    assert text_of(_run("canonicalize_clamp", given)) == text_of(parse_program(given))


FRACTIONS = {
    "add.Tensor(%i, 0.5)": "f32", "sub.Scalar(%i, 0.5, 3)": "f32", "mul.Tensor(%i, 0.5)": "f32", "div.Tensor(%i, 2)": "f32",
    "div.Tensor(%i, %i)": "f32", "rsub.Scalar(%i, 0.5)": "f32", "remainder.Scalar(%i, 1.5)": "f32", "ge.Scalar(%i, 1.5)": "b1",
    "eq.Scalar(%i, 0.5)": "b1", "clamp(%i, 0.5)": "f32", "add.Tensor(%x, %i, alpha=0.5)": "f32",
}  # fmt: skip


@pytest.mark.parametrize("call", FRACTIONS)
def test_integers_that_meet_a_fraction_are_floats_before(call):
    """Importers read a fraction beside integers as an integer: 0 for 0.5, and 1 for 3 / 2."""
    given = f"%i : i64[3,4]; %x : f32[3,4]; %y = aten.{call}; return %y"
    made = _run("canonicalize_ops", given)
    (result,) = made.outputs()
    assert all(operand.meta["val"].is_floating_point() for operand in result.all_input_nodes)
    assert result.meta["val"].dtype == (torch.bool if FRACTIONS[call] == "b1" else torch.float32)
    i, x = torch.arange(-5, 7).view(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(made(i, x), parse_program(given)(i, x), equal_nan=True)


def test_indices_of_two_integer_dtypes_are_int64():
    """ONNX compares the sizes of the indices in one op, and TVM stacks them: both want one dtype."""
    given = "%x : f32[3,4]; %i : i32[2]; %j : i64[2]; %y = aten.index.Tensor(%x, [%i, %j]); return %y"
    made = _run("canonicalize_ops", given)
    (read,) = made.find("aten.index.Tensor")
    assert {index.meta["val"].dtype for index in read.args[1]} == {torch.int64}
    args = torch.randn(3, 4), torch.tensor([0, 2], dtype=torch.int32), torch.tensor([3, 1])
    torch.testing.assert_close(made(*args), args[0][args[1].long(), args[2]])
