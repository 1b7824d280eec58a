"""Traits of ops against torch: each definition is checked in float64 on every op that claims it, on the calls of coupling_cases.

What is element by element and does not claim a trait must break its definition, so that a row which claims too little is
found as well as one which claims too much.
"""

from __future__ import annotations

import functools

import pytest
import torch
from cases.coupling_cases import CASES, Case
from torch import fx

from fxopt.ir.op_table import TABLE, Trait, arguments, bounds, family, has, named
from fxopt.ir.parser import parse_program
from fxopt.ir.printer import op_name
from fxopt.numerics.execute import untouched

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = {"rtol": 1e-9, "atol": 1e-9, "equal_nan": True}


class Call:
    """A case as a function of its float operands, which hold zeros and numbers on both sides of any bound."""

    def __init__(self, case):
        self.text, self.program = case.text, parse_program(case.text)
        torch.manual_seed(0)
        values = dict(zip(self.program.inputs(), self.program.example_leaves(), strict=True))
        values |= {n: self.program.tensor(n).detach() for n in self.program.graph.nodes if n.op == "get_attr"}
        for node, value in values.items():
            if value.is_floating_point():
                values[node] = torch.randn(value.shape, dtype=value.dtype) * 3
                values[node].view(-1)[::5] = 0
            if node.name in case.values:
                values[node] = torch.as_tensor(case.values[node.name], dtype=value.dtype).expand(value.shape).clone()
        self.values = values
        self.node = next(n for n in self.program.graph.nodes if n.op == "call_function")
        operands = [n for n in self.node.all_input_nodes if n in values]
        self.floats = [n for n in operands if values[n].is_floating_point()]

    def __call__(self, change=None, first=False):
        """The results in float64, its float operands (or the first alone) changed."""
        changed = self.floats[:1] if first else self.floats
        env = {n: change(v.clone()) if change and n in changed else v.clone() for n, v in self.values.items()}
        with untouched(self.program):
            torch.manual_seed(0)
            for node in self.program.graph.nodes:
                if node.op == "call_function":
                    env[node] = node.target(*fx.map_arg(node.args, env.get), **fx.map_arg(node.kwargs, env.get))
        return [env[n] for n in self.program.outputs() if isinstance(env[n], torch.Tensor)]

    def again(self, x):
        """The op on another tensor as its first operand."""
        args = fx.map_arg(self.node.args[1:], self.values.get)
        return self.node.target(x.clone(), *args, **fx.map_arg(self.node.kwargs, self.values.get))


@functools.cache
def calls():
    """Those of the cases that are about floats; seconds to make, and not of the collection."""
    made = map(Call, CASES)
    return [c for c in made if op_name(c.node) in TABLE and c.floats and family(c.node) != "random"]


def same(got, want):
    return all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), **CLOSE) for a, b in zip(got, want, strict=True)
    )


def numbers(results):
    return [r for r in results if r.is_floating_point()]


# ---- the definitions: each says of one call whether the trait holds there ------------------------------------------


def homogeneous(call, first=False):
    return all(
        same(numbers(call(lambda v, a=a: v * a, first)), [a * r for r in numbers(call())]) for a in (0.3, 1.7, 40.0)
    )


def shifts(call):
    return all(same(numbers(call(lambda v, c=c: v + c)), [r + c for r in numbers(call())]) for c in (-2.3, 0.7, 9.0))


def elementwise(call):
    """A change of one number of an operand as large as the result changes the result there alone."""
    (before,) = call()
    for operand in (n for n in call.floats if call.values[n].shape == before.shape):
        for place in (0, 17, before.numel() - 1):
            kept = call.values[operand]
            call.values[operand] = kept.clone()
            call.values[operand].view(-1)[place] = 1.37
            (after,) = call()
            call.values[operand] = kept
            other = torch.arange(before.numel()) != place
            if not same([after.reshape(-1)[other]], [before.reshape(-1)[other]]):
                return False
    return True


def continuous(call):
    """Jumps are hunted down: of two neighbouring numbers the half with the larger difference, until they are one."""
    low = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    low, high = low[:-1].clone(), low[1:].clone()
    shape = (len(low), *[1] * (call.values[call.floats[0]].dim() - 1))
    f = lambda x: call.again(x.reshape(shape)).double().reshape(-1)  # noqa: E731
    for _ in range(45):
        middle = (low + high) / 2
        left = (f(middle) - f(low)).abs() >= (f(high) - f(middle)).abs()
        low, high = torch.where(left, low, middle), torch.where(left, middle, high)
    a, b = f(low), f(high)
    inside = a.isfinite() & b.isfinite() & (a.abs() < 20) & (b.abs() < 20)  # a pole is outside the domain
    return bool(((a - b).abs()[inside] < 1e-5).all())


def zero_preserving(call):
    return all(not r.count_nonzero() for r in call(torch.zeros_like, first=True))


def idempotent(call):
    (once,) = call()
    return same([call.again(once)], [once])


def keeps_form(call):
    (result,), x = call(), call.values[call.floats[0]]
    return (result.shape, result.dtype, result.stride()) == (x.shape, x.dtype, x.stride())


def same_value(call):
    return same(call(), [call.values[call.floats[0]]])


def cast(call):
    (result,), x = call(), call.values[call.floats[0]]
    return bool((result.double() == x.to(result.dtype).double()).all())


def rearranges(call):
    """It commutes with any function of single numbers, a falling one too, which leaves a pad's number as it is."""
    pad = float(arguments(call.node).get("value") or 0)
    change = lambda v: pad - (v - pad) ** 3  # noqa: E731
    return same(call(change), [change(r) for r in call()])


def selects(call):
    """Each number is one of those given; places and truths are no floats."""
    given = call.values[call.floats[0]]
    return all(bool(torch.isin(r, given).all()) for r in numbers(call()))


def unrounded(call):
    """With its numbers, those in the call among them, as float32 has them."""
    given = call.node.args
    call.node.args = fx.node.map_aggregate(given, lambda v: torch.tensor(v).item() if isinstance(v, float) else v)
    narrow, wide = call(torch.Tensor.float), call(lambda v: v.float().double())
    call.node.args = given
    return all(torch.equal(a.double(), b.double()) for a, b in zip(narrow, wide, strict=True))


DEFINITIONS = {
    Trait.ELEMENTWISE: elementwise,
    Trait.CONTINUOUS: continuous,
    Trait.ZERO_PRESERVING: zero_preserving,
    Trait.IDEMPOTENT: idempotent,
    Trait.HOMOGENEOUS: homogeneous,
    Trait.HOMOGENEOUS_IN_FIRST: lambda call: homogeneous(call, first=True),
    Trait.SHIFT_EQUIVARIANT: shifts,
    Trait.KEEPS_FORM: keeps_form,
    Trait.SAME_VALUE: same_value,
    Trait.CAST: cast,
    Trait.DROPOUT: same_value,
    Trait.REARRANGES: rearranges,
    Trait.SELECTS: selects,
    Trait.UNROUNDED: unrounded,
}

UNCLAIMED = {
    "aten.threshold": {Trait.IDEMPOTENT: "only where the value is above the threshold"},
    "aten.pow.Tensor_Scalar": {Trait.ZERO_PRESERVING: "only of a positive exponent"},
    "aten.nan_to_num": {
        **dict.fromkeys((Trait.CONTINUOUS, Trait.HOMOGENEOUS, Trait.HOMOGENEOUS_IN_FIRST), "not of NaN"),
        Trait.SHIFT_EQUIVARIANT: "not of NaN",
        Trait.IDEMPOTENT: "not where NaN is to be infinite, and infinity a number",
    },
    "aten.clamp": {Trait.ZERO_PRESERVING: "only where zero is within the bounds"},
    "aten.clip": {Trait.ZERO_PRESERVING: "only where zero is within the bounds"},
    "aten.clamp_max": {Trait.ZERO_PRESERVING: "only of a bound above zero"},
    "aten.hardtanh": {Trait.ZERO_PRESERVING: "only where zero is within the bounds"},
    "aten.alpha_dropout": {Trait.ZERO_PRESERVING: "not in training"},
    "aten.feature_alpha_dropout": {Trait.ZERO_PRESERVING: "not in training"},
}
"""What holds on the calls here and not on all."""
CURVES = tuple(DEFINITIONS)[:8]
"""The traits that are about functions of one number."""


def claims(call, trait):
    return trait in TABLE[op_name(call.node)].traits


def has_number(call):
    """Whether an operand of a binary op is a number, which is not scaled along with the other one."""
    return TABLE[op_name(call.node)].family == "binary" and len(call.node.all_input_nodes) < 2


@pytest.mark.parametrize("trait", DEFINITIONS, ids=lambda t: t.name)
def test_an_op_with_a_trait_meets_its_definition(trait):
    claiming = [call for call in calls() if claims(call, trait)]
    if trait is Trait.HOMOGENEOUS:
        claiming = [call for call in claiming if not has_number(call)]
    assert claiming
    assert [call.text for call in claiming if not DEFINITIONS[trait](call)] == []


@pytest.mark.parametrize("trait", CURVES, ids=lambda t: t.name)
def test_a_function_of_one_number_without_a_trait_breaks_its_definition(trait):
    missing = set()
    for name, row in TABLE.items():
        if trait is not Trait.ELEMENTWISE and Trait.ELEMENTWISE not in row.traits:
            continue
        tried = [call for call in calls() if op_name(call.node) == name and is_function(call)]
        copies = row.traits & (Trait.SAME_VALUE | Trait.DROPOUT) and trait in (Trait.IDEMPOTENT, Trait.KEEPS_FORM)
        if trait not in row.traits and not copies and tried and all(map(DEFINITIONS[trait], tried)):
            missing.add(name)
    assert missing == {name for name, reasons in UNCLAIMED.items() if trait in reasons}


def is_function(call):
    """Whether it is unary, from float64 to float64."""
    one = TABLE[op_name(call.node)].family == "unary" and len(call.node.all_input_nodes) == 1
    return one and [r.dtype for r in call()] == [torch.float64]


def test_every_op_with_a_trait_that_takes_floats_was_called():
    integers = {name for name in TABLE if name.startswith(("aten.bitwise_", "aten.__"))}
    elsewhere = integers | {"aten.where.Scalar", "getitem"} | set(named(Trait.READS_FORM_ONLY))
    assert {n for n, row in TABLE.items() if row.traits} - {op_name(call.node) for call in calls()} == elsewhere


def test_every_row_names_an_op_of_torch():
    for name in (n for n in TABLE if n.startswith("aten.")):
        packet, _, overload = name.removeprefix("aten.").partition(".")
        assert hasattr(getattr(torch.ops.aten, packet, None), overload or "default"), name


# ---- traits that are not about one call of the cases ---------------------------------------------------------------


def test_bounds_are_those_of_a_clamp():
    clamps = [call for call in calls() if TABLE[op_name(call.node)].bounds]
    assert {op_name(call.node) for call in clamps} == {name for name, row in TABLE.items() if row.bounds}
    for call in clamps:
        low, high = bounds(call.node)
        assert same(call(), [torch.clamp(call.values[call.floats[0]], low, high)]), call.text


OWN_SHAPE = {
    "view": "[3,4,5]", "view_as": "%x", "reshape": "[3,4,5]", "reshape_as": "%x", "_unsafe_view": "[3,4,5]",
    "flatten.using_ints": "1, 1", "squeeze": "", "squeeze.dim": "1", "squeeze.dims": "[0, 1]", "expand": "[3,4,-1]",
    "expand_as": "%x", "broadcast_to": "[3,4,5]", "slice.Tensor": "1, 0, 9223372036854775807",
}  # fmt: skip


@pytest.mark.parametrize("name", named(Trait.SAME_SHAPE_IS_SAME_VALUE))
def test_a_reshape_to_its_own_shape_is_the_value_itself(name):
    call = Call(
        Case(
            f"%x : f64[3,4,5]; %y = {name}(%x, {OWN_SHAPE[name.removeprefix('aten.')]}); return %y".replace(", )", ")"),
            0,
        )
    )
    assert same_value(call)


def test_only_ops_bound_to_strides_refuse_a_transposed_operand():
    refusing = set()
    for call in calls():
        x = call.values[call.floats[0]]
        if family(call.node) in ("layout", "copy", "pick") and x.dim() > 1:
            call.values[call.floats[0]] = x.mT.contiguous().mT
            try:
                call()
            except RuntimeError:
                refusing.add(op_name(call.node))
            call.values[call.floats[0]] = x
    splitting = {"aten.unflatten.int", "aten.view_as"}  # as the calls here do, which memory in any order allows
    assert refusing == set(named(Trait.BOUND_TO_STRIDES)) - splitting


@pytest.mark.parametrize("read", ["sym_size.int(%x, 1)", "sym_numel(%x)", "sym_stride.int(%x, 0)"])
def test_what_reads_the_form_alone_gives_the_same_for_other_numbers(read):
    program = parse_program(f"%x : f64[2,3]; %s = aten.{read}; %y = aten.full([%s], 1.0); return %y")
    node = next(n for n in program.graph.nodes if n.op == "call_function")
    assert has(node, Trait.READS_FORM_ONLY)
    assert node.target(torch.zeros(2, 3), *node.args[1:]) == node.target(torch.randn(2, 3), *node.args[1:])


def test_ops_that_autocast_to_float32_need_it():
    """PyTorch's documentation, "CUDA Ops that can autocast to float32"; norms, softmax and sums are so by their family."""
    listed = (
        "acos asin cosh cumprod cumsum erfinv exp expm1 log log10 log1p log2 pow reciprocal rsqrt sinh softplus tan"
    )
    packets = {name: name.split(".")[1] for name in TABLE if name.startswith("aten.")}
    ours = set(named(Trait.NEEDS_FLOAT32))
    assert {name for name, packet in packets.items() if packet in listed.split()} <= ours
    assert {packets[name] for name in ours} - set(listed.split()) == {
        "sqrt", "sin", "cos", "square", "log_sigmoid", "grid_sampler", "affine_grid_generator",
    }  # fmt: skip
