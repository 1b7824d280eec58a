"""The text form both ways, its errors, and comparison modulo names."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxopt import Pipeline, Program, capture
from fxopt.errors import UnknownNameError, UsageError
from fxopt.ir.parser import canonical_text, parse_program, same_text
from fxopt.testing import find_example, small_models

FULL = """\
%x : f32[batch,3,8,8]
%w = param "conv.weight" : f32[8,3,3,3]
%y = aten.conv2d(%x, %w, None, [1, 1], [1, 1]) : f32[batch,8,8,8]
%mean = param "bn.running_mean" : f32[8]
%var = param "bn.running_var" : f32[8]
%b = aten.batch_norm(%y, None, None, %mean, %var, False, 0.1, 1e-05, False) : f32[batch,8,8,8]
%q = quantized_decomposed.quantize_per_tensor(%b, 0.1, 3, 0, 255, u8) : u8[batch,8,8,8]
%d = quantized_decomposed.dequantize_per_tensor(%q, 0.1, 3, 0, 255, u8) : f32[batch,8,8,8]
%s = aten.split.Tensor(%d, 4, 1) : (f32[batch,4,8,8], f32[batch,4,8,8])
%s0 = getitem(%s, 0) : f32[batch,4,8,8]
%n = aten.sym_size.int(%x, 0) : int
%m = mul(%n, 2) : int
%r = aten.reshape(%s0, [%m, 128]) : f32[2*batch,128]
%f = aten.full([2], -inf, dtype=f32, device='cpu', pin_memory=False) : f32[2]
return %r, %f"""


def test_a_program_is_its_text():
    program = parse_program(FULL)
    assert program.text() == FULL
    assert parse_program(program.text()).text() == FULL


PIECES = [
    "%x",
    "%y",
    " : ",
    "f32[2]",
    "f32[b,2]",
    " = ",
    "aten.relu",
    "(",
    ")",
    "%x, ",
    "[",
    "]",
    ";",
    "\n",
    "return ",
    "'",
    "param ",
]


@pytest.mark.parametrize("model", small_models(), ids=lambda m: m.name)
def test_captured_models_round_trip(model):
    text = model.program().text()
    assert parse_program(text).text() == text


def test_a_parsed_program_computes_what_it_says():
    program = parse_program('%x : f32[batch,4]; %w = param "w" : f32[3,4]; %y = aten.linear(%x, %w); return %y, %x')
    x = torch.randn(5, 4)
    y, same = program(x)
    torch.testing.assert_close(y, x @ program.tensors()["w"].T)
    assert same is x


def test_a_parsed_program_is_like_a_captured_one():
    torch.manual_seed(0)
    captured = capture(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), (torch.randn(2, 4),))
    parsed = parse_program(captured.text())
    assert (parsed.in_spec, parsed.out_spec, parsed.signature()) == (
        captured.in_spec,
        captured.out_spec,
        captured.signature().replace("input:", "input_1:"),
    )
    assert list(parsed.ranges.values()) == list(captured.ranges.values())
    assert not Pipeline().run(parsed).steps


def test_weights_come_from_the_seed_and_the_name():
    one, same, other = (parse_program(FULL, seed=seed).tensors() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv.weight"], other["conv.weight"])
    assert bool((one["bn.running_var"] > 0).all())


def test_comments_source_lines_and_types_may_stand_there():
    text = "\n# a comment\n%x : f32[2]   # the input\n%y = aten.relu(%x) : f32[2]        models/net.py:42\n"
    assert parse_program(text).text() == "%x : f32[2]\n%y = aten.relu(%x) : f32[2]\nreturn %y"


class Shown(torch.nn.Module):
    def forward(self, x):
        return x.relu()


def test_text_with_source_lines_is_read_as_well():
    program = capture(Shown(), (torch.ones(2, 3),))
    shown = program.text(source=True)
    assert re.search(r" {8}\S*test_printer_and_parser.py:\d+\n", shown)
    assert parse_program(shown).text() == program.text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("%x f32[2]", ["line 1, column 1", "'%x : type'"]),
        ("%x : f32[2]\n%y = aten.relu(%z)", ["'%z'; did you mean '%x'", "line 2, column 16", "   ^"]),
        ("%x : f32[2]\n%y = aten.rleu(%x)", ["unknown op 'aten.rleu'; did you mean 'aten.relu'", "line 2, column 6"]),
        ("%x : f32[2]\n%y = aten.mean.dims(%x)", ["overload", "'aten.mean.dim'"]),
        ("%x : f32[2]; %y = aten.flatten(%x, 1)", ["the overload too: aten.flatten.using_ints", "column 19"]),
        ("%x : f32[2]; %y = foo.bar(%x)", ["unknown op 'foo.bar'"]),
        ("%x : q32[2]", ["a dtype, one of f64, f32", "column 5"]),
        ("%x : f32[2*b]", ["sizes that are numbers or names"]),
        ("%x : f32[2]; %x : f32[2]", ["%x is taken", "column 14"]),
        ("%x : f32[2]; %y = aten.relu(%x", ["')' that closes the arguments"]),
        ("%x : f32[2]; %y = aten.relu(%x) : f32[3]", ["follows from the operands, f32[2], got f32[3]"]),
        ("%x : f32[2]; %y = aten.relu(%x) %x", ["nothing, or ': type', after the arguments"]),
        (
            "%x : f32[2,3]; %y = aten.mm(%x, %x); %z = aten.relu(%y)",
            ["operands that fit", "[2, 3] X [2, 3]", "column 16"],
        ),
        ("%x : f32[2]; return", ["a value to return"]),
        ("%x : f32[2]; return %x; %y = aten.relu(%x)", ["nothing after the return line"]),
        ('%x : f32[2]; %w = param "a"', ["the type of the weight"]),
        ('%x : f32[2]; %w = param "a" : f32[n]', ["a tensor type of numbers"]),
        ('%x : f32[2]; %w = param "a" : f32[2]; %v = param "a" : f32[3]', ["'a' has already, f32[2]"]),
        ('%x : f32[2]; %w = param "a" : f32[2]; %v = param "a.b" : f32[3]', ["a weight name that a module can hold"]),
        ("%x : f32[2]; %y = aten.relu(x)", ["a reference such as %x"]),
        ("%x : f32[2]; %y = aten.relu(%x, **{})", ["without **"]),
        ("%x : f32[2]; %y = aten.relu(lambda: %x)", ["a literal or a %reference, got 'lambda: %x'"]),
        ("%x : f32[2]; %y = aten.relu(" + "[" * 1000 + "]" * 1000 + ")", ["literals and %references"]),
        ("", ["an input such as"]),
    ],
)
def test_errors_point_at_the_place(text, words):
    with pytest.raises(UsageError) as caught:
        parse_program(text)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_nothing_is_executed(tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(UsageError, match='got "__import__'):
        parse_program(f"%x : f32[2]; %y = aten.add.Tensor(%x, __import__('os').system('touch {mark}'))")
    assert not mark.exists()


def test_an_unknown_op_is_an_unknown_name():
    with pytest.raises(UnknownNameError):
        parse_program("%x : f32[2]; %y = aten.reluu(%x)")


def _read_or_refuse(text):
    try:
        return parse_program(text)
    except UsageError as error:
        return error


@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_any_text_is_read_or_refused_as_usage(text):
    got = _read_or_refuse(text)
    assert isinstance(got, Program) or "line " in str(got)


def test_same_text_sees_structure_and_not_names():
    one = parse_program('%x : f32[batch,4]; %w = param "w" : f32[3,4]; %y = aten.linear(%x, %w); %z = aten.relu(%y)')
    renamed = '%a : f32[n,4]; %b = param "other.weight" : f32[3,4]; %c = aten.linear(%a, %b); %d = aten.relu(%c)'
    assert same_text(one, parse_program(renamed))
    assert "v" in canonical_text(one)
    for old, new in [("relu", "tanh"), ("%b)", "%b, None)"), ("[n,4]", "[5,4]"), ("%d =", "%e = aten.neg(%c); %d =")]:
        assert not same_text(one, parse_program(renamed.replace(old, new)))


def test_same_text_sees_ties_and_operand_order():
    tied = """
        %x : f32[4]
        %v = param "v" : f32[4]
        %y = aten.sub.Tensor(%x, %v)
        %w = param "v" : f32[4]
        %z = aten.mul.Tensor(%y, %w)
    """
    assert not same_text(parse_program(tied), parse_program(tied.replace('%w = param "v"', '%w = param "w"')))
    assert not same_text(parse_program(tied), parse_program(tied.replace("(%x, %v)", "(%v, %x)")))


def test_examples_are_found_in_both_spellings():
    def lines():
        """Do.

        before:
            %x : f32[2]

            return %x
        after:
            %x : f32[2]
        and more.
        """

    def inline():
        """Do.

        before: %x : f32[2]; return %x
        after:  %x : f32[2]
        """

    assert find_example(lines).before == "%x : f32[2]\n\nreturn %x"
    assert find_example(inline).before == "%x : f32[2]; return %x"
    assert find_example(lines).after == find_example(inline).after == "%x : f32[2]"
    assert find_example(test_same_text_sees_structure_and_not_names) is None
