"""Passes that say they are exact and are not: each is wrong somewhere that few inputs show."""

from __future__ import annotations

import math

import torch

from fxopt import Program, graph_pass
from fxopt.ir.parser import parse_program

aten = torch.ops.aten

NET = """
%x : f32[batch,4]
%w = param "a.weight" : f32[6,4]
%b = param "a.bias" : f32[6]
%h = aten.linear(%x, %w, %b)
%r = aten.tanh(%h)
%v = param "b.weight" : f32[5,6]
%c = param "b.bias" : f32[5]
%y = aten.linear(%r, %v, %c)
return %y
"""
LINEAR = NET.replace("aten.tanh", "aten.neg")
RELU = NET.replace("aten.tanh", "aten.relu")
TABLE = '%i : i64[batch,3]; %w = param "table" : f32[50,4]; %e = aten.embedding(%w, %i); %y = aten.mul.Tensor(%e, 2.0); return %y'
INPUT = "%x : f32[batch,4]; %a = aten.add_.Tensor(%x, 1); %y = aten.mul.Tensor(%x, 2.0); return %y"
BUFFER = '%x : f32[batch,4]; %s = param "seen" : i64[4]; %y = aten.mul.Tensor(%x, %s); %a = aten.add_.Tensor(%s, 1); return %y'
COUNTED = """
%x : f32[batch,4]
%w = param "a.weight" : f32[6,4]
%y = aten.linear(%x, %w)
%s = param "seen" : i64[1]
%a = aten.add_.Tensor(%s, 1)
return %y
"""
SEQUENCE = "%x : f32[batch,n,4]; %y = aten.tanh(%x); %z = aten.mul.Tensor(%y, 2.0); return %z"
IMAGE = """
%x : f32[batch,3,56,56]
%w = param "w" : f32[4,3,3,3]
%c = aten.conv2d(%x, %w, None, [2, 2], [1, 1])
%p = aten.avg_pool2d(%c, [3, 3], [1, 1], [1, 1])
%y = aten.relu(%p)
return %y
"""
TWINS = """
%x : f32[batch,4]
%w = param "a.weight" : f32[4,4]
%h = aten.linear(%x, %w)
%r = aten.tanh(%h)
%v = param "b.weight" : f32[4,4]
%i = aten.linear(%r, %v)
%s = aten.tanh(%i)
return %s
"""
BOUND = "%x : f32[batch,4]; %p = aten.gt.Scalar(%x, 37.5); %y = aten.where.ScalarOther(%p, %x, -1.0); return %y"
ROUND = "%x : f32[batch,4]; %r = aten.round(%x); %y = aten.mul.Tensor(%r, 0.5); return %y"
SOFT = "%x : f32[batch,4]; %s = aten.softmax.int(%x, 1); %y = aten.mul.Tensor(%s, 2.0); return %y"

WRONG: dict[str, tuple[str, type]] = {}
"""By name the graph and the pass."""


def wrong(graph: str, name: str | None = None):
    """Register ``rewrite(program)``, the body of an exact pass."""

    def register(rewrite):
        def run(program: Program) -> None:
            rewrite(program)

        run.__name__, run.__doc__ = name or rewrite.__name__, "Wrong."
        WRONG[run.__name__] = (graph, graph_pass(run))
        return rewrite

    return register


def program_of(graph: str) -> Program:
    """The program of a wrong pass."""
    torch.manual_seed(0)
    return parse_program(graph)


def first(program, op):
    return next(program.find(op))


def behind(program, node, make):
    """Let the users of a node read what ``make(call, node)`` makes of it."""
    users = list(node.users)
    last = [node]

    def call(op, *args, **kwargs):
        last[0] = program.call(op, *args, like=last[0], **kwargs)
        return last[0]

    result = make(call, node)
    for user in users:
        user.replace_input_with(node, result)


def value_rule(name, graph, op, make):
    """A pass that changes the value of the first call of an op."""
    wrong(graph, name)(lambda program: behind(program, first(program, op), make))


def where_to(condition, change):
    """``change(x)`` where ``condition(x)``."""
    return lambda call, x: call(aten.where.self, condition(call, x), change(call, x), x)


def _half(call, x):
    return call(aten.mul.Tensor, x, 0.5)


def _nudged(call, x):
    return call(aten.add.Tensor, x, 1e-3)


def _cmp(op, number):
    return lambda call, x: call(op, x, number)


for graph_name, graph, op in (
    ("inner", NET, "aten.linear"),
    ("behind_relu", RELU, "aten.relu"),
    ("last", NET, "aten.tanh"),
):
    value_rule(f"scaled_by_a_millionth_{graph_name}", graph, op, lambda call, x: call(aten.mul.Tensor, x, 1 + 1e-6))
    value_rule(f"at_exact_zero_{graph_name}", graph, op, where_to(_cmp(aten.eq.Scalar, 0.0), _nudged))
    value_rule(
        f"not_a_number_{graph_name}",
        graph,
        op,
        lambda call, x: call(aten.nan_to_num.default, x, 0.0, math.inf, -math.inf),
    )

value_rule("infinity_made_finite", NET, "aten.linear", lambda call, x: call(aten.clamp.default, x, -1e300, 1e300))
value_rule("negative_halved", NET, "aten.linear", where_to(_cmp(aten.lt.Scalar, 0.0), _half))
value_rule("abs_of_a_signed_value", NET, "aten.linear", lambda call, x: call(aten.abs.default, x))
value_rule("above_37", LINEAR, "aten.linear", where_to(_cmp(aten.gt.Scalar, 37.0), _half))
value_rule("below_minus_5000", LINEAR, "aten.linear", where_to(_cmp(aten.lt.Scalar, -5000.0), _half))
value_rule("clamped_at_100", LINEAR, "aten.linear", lambda call, x: call(aten.clamp.default, x, -100.0, 100.0))
value_rule("relu6_for_relu", RELU, "aten.relu", lambda call, x: call(aten.clamp_max.default, x, 6.0))
value_rule(
    "tiny_to_zero",
    NET,
    "aten.linear",
    where_to(
        lambda call, x: call(aten.lt.Scalar, call(aten.abs.default, x), 1e-2),
        lambda call, x: call(aten.mul.Tensor, x, 0.0),
    ),
)
value_rule("rounded_ties", NET, "aten.linear", where_to(_cmp(aten.eq.Scalar, 0.5), _half))
value_rule("at_one", NET, "aten.linear", where_to(_cmp(aten.eq.Scalar, 1.0), _half))
value_rule("softmax_shifted", SOFT, "aten.softmax.int", lambda call, x: call(aten.add.Tensor, x, 1e-8))
value_rule("softmax_floor", SOFT, "aten.softmax.int", lambda call, x: call(aten.clamp_min.default, x, 1e-6))


@wrong(BOUND)
def not_less_for_greater(program):
    first(program, "aten.gt.Scalar").target = aten.ge.Scalar


@wrong(ROUND)
def ties_rounded_up(program):
    node = first(program, "aten.round")
    program.replace(node, program.call(
        aten.floor.default, program.call(aten.add.Tensor, node.args[0], 0.5, like=node), like=node))  # fmt: skip


def _rows_from(start):
    def make(call, x):
        head = call(aten.slice.Tensor, x, 0, 0, start)
        tail = call(aten.slice.Tensor, x, 0, start)
        return call(aten.cat.default, [head, call(aten.add.Tensor, tail, 1.0)], 0)

    return make


for start in (1, 3, 7, 100, 500):
    value_rule(f"rows_beyond_{start}", NET, "aten.linear", _rows_from(start))
for start in (3, 8):
    value_rule(
        f"steps_beyond_{start}", SEQUENCE, "aten.tanh",
        lambda call, x, start=start: call(aten.cat.default, [
            call(aten.slice.Tensor, x, 1, 0, start), call(aten.mul.Tensor, call(aten.slice.Tensor, x, 1, start), 0.5)
        ], 1),
    )  # fmt: skip
value_rule("last_row_twice", NET, "aten.tanh", lambda call, x: call(
    aten.index_select.default, x, 0, call(aten.clamp_min.default, call(
        aten.sub.Tensor, call(aten.cumsum.default, call(aten.slice.Tensor, call(aten.ones_like.default, call(
            aten.select.int, x, 1, 0), dtype=torch.int64), 0), 0), 1), 1)
))  # fmt: skip


@wrong(IMAGE)
def one_pixel_off(program):
    node = first(program, "aten.conv2d")
    ones = torch.ones(1, 1, 28, 28)
    ones[0, 0, 20, 20] = 1 + 1e-6
    scale = program.add_tensor("scale", ones, node.next)
    behind(program, node, lambda call, x: call(aten.mul.Tensor, x, scale))


@wrong(IMAGE)
def border_not_counted(program):
    node = first(program, "aten.avg_pool2d")
    node.args = (*node.args, False, False)


@wrong(IMAGE)
def column_beyond_40_doubled(program):
    node = program.inputs()[0]
    behind(program, node, lambda call, x: call(aten.cat.default, [
        call(aten.slice.Tensor, x, 3, 0, 40), call(aten.mul.Tensor, call(aten.slice.Tensor, x, 3, 40), 2.0)], 3))  # fmt: skip


@wrong(TWINS)
def second_of_two_alike(program):
    for node, off in zip(list(program.find("aten.tanh")), (0.0, 1e-6), strict=True):
        scale = torch.ones(4)
        scale[2] += off
        weight = program.add_tensor("scale", scale, node.next)
        behind(program, node, lambda call, x, weight=weight: call(aten.mul.Tensor, x, weight))


@wrong(NET)
def batch_of_one_squeezed(program):
    node = first(program, "aten.tanh")
    behind(program, node, lambda call, x: call(aten.unsqueeze.default, call(aten.mean.dim, x, [0]), 0))


@wrong(TABLE)
def unused_row(program):
    node = first(program, "aten.embedding")
    table = program.tensor(node.args[0]).clone()
    table[49] += 1
    program.swap_tensor(node, node.args[0], table)


@wrong(TABLE)
def first_row_zeroed(program):
    node = first(program, "aten.embedding")
    table = program.tensor(node.args[0]).clone()
    table[0] = 0
    program.swap_tensor(node, node.args[0], table)


@wrong(INPUT)
def input_write_dropped(program):
    add, mul = first(program, "aten.add_.Tensor"), first(program, "aten.mul.Tensor")
    x = program.inputs()[0]
    mul.args = (program.call(aten.add.Tensor, x, 1, like=x), 2.0)
    program.graph.erase_node(add)


@wrong(INPUT)
def input_write_twice_as_large(program):
    add, mul = first(program, "aten.add_.Tensor"), first(program, "aten.mul.Tensor")
    mul.args = (program.call(aten.sub.Tensor, mul.args[0], 1, like=add), 2.0)
    add.args = (add.args[0], 2)


@wrong(BUFFER)
def buffer_write_dropped(program):
    program.graph.erase_node(first(program, "aten.add_.Tensor"))


@wrong(BUFFER)
def buffer_write_changed(program):
    node = first(program, "aten.add_.Tensor")
    node.args = (node.args[0], 2)


@wrong(BUFFER)
def buffer_written_before_it_is_read(program):
    first(program, "aten.mul.Tensor").prepend(first(program, "aten.add_.Tensor"))


@wrong(BUFFER)
def other_buffer_written(program):
    node = first(program, "aten.add_.Tensor")
    node.args = (program.call(aten.clone.default, node.args[0], like=node.prev), 1)


@wrong(NET)
def writes_into_its_input(program):
    node = first(program, "aten.linear")
    program.call(aten.add_.Tensor, program.inputs()[0], 1, like=node)


def _stored(name, change, graph=NET):
    @wrong(graph, name)
    def store(program):
        node = first(program, "aten.linear")
        weight = program.tensor(node.args[1])
        if weight.dtype == torch.float32:
            program.swap_tensor(node, node.args[1], change(weight.detach().clone()))


_stored("stored_off_by_9e_5", lambda w: w * (1 + 9e-5))
_stored("stored_off_beside_a_write", lambda w: w * (1 + 9e-5), COUNTED)
_stored("stored_in_half_precision", lambda w: w.half().float())
_stored("one_element_stored_off", lambda w: w + 5e-5 * torch.eye(*w.shape))


@wrong(NET)
def nothing_in_float64(program):
    node = first(program, "aten.tanh")
    if program.tensor(first(program, "aten.linear").args[1]).dtype == torch.float32:
        behind(program, node, lambda call, x: call(aten.mul.Tensor, x, 1 + 6e-5))


@wrong(NET)
def weight_edited_in_place(program):
    with torch.no_grad():
        program.tensor(first(program, "aten.linear").args[1])[0, 0] += 1e-6


@wrong(NET)
def bias_dropped(program):
    node = list(program.find("aten.linear"))[1]
    program.swap_tensor(node, node.args[2], program.tensor(node.args[2]) * (1 - 1e-7))


@wrong(NET)
def rows_of_a_weight_swapped(program):
    node = list(program.find("aten.linear"))[1]
    program.swap_tensor(node, node.args[1], program.tensor(node.args[1])[[1, 0, 2, 3, 4]])


@wrong(
    "%x : f32[batch,4]; %d = aten.dropout(%x, 0.5, True); "
    "%e = aten.dropout(%x, 0.5, True); %y = aten.sub.Tensor(%d, %e); return %y"
)
def two_draws_made_one(program):
    first_, second = program.find("aten.dropout")
    program.replace(second, first_)


@wrong("%x : f32[batch,4]; %d = aten.dropout(%x, 0.5, True); %y = aten.mul.Tensor(%d, 2.0); return %y")
def dropout_in_training_dropped(program):
    node = first(program, "aten.dropout")
    program.replace(node, node.args[0])


OUT_OF_REACH = {
    "above_a_number_that_no_call_names": "the threshold is computed, so that no trial goes there",
}
"""What the proof does not see, and why; one of a kind."""


def above_a_computed_number() -> type:
    """Wrong beyond e**20: no number in the graph says so, and no trial is that large."""

    @graph_pass
    def above_a_number_that_no_call_names(program: Program) -> None:
        """Wrong."""
        behind(program, first(program, "aten.linear"), lambda call, x: call(
            aten.where.self, call(aten.gt.Scalar, call(aten.log.default, call(aten.clamp_min.default, x, 1.0)), 20.0), 
            call(aten.neg.default, x), x
        ))  # fmt: skip

    return above_a_number_that_no_call_names
