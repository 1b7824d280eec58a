"""Shapes that come from memory are those that torch derives, and nothing that one program assumes reaches another."""

import pytest
import torch
from torch.utils import _pytree as pytree

from fxopt.frontend.capture import capture
from fxopt.ir import shape_memo
from fxopt.ir.parser import parse_program
from fxopt.ir.shape_inference import derive_shapes


class Views(torch.nn.Module):
    """Values that start inside of others, several results, sizes made of sizes."""

    def forward(self, x):
        first, second = x.chunk(2, dim=-1)
        values, places = second.topk(2)
        turned = first.transpose(1, 2)[:, 1:].flatten(1)
        return turned, values * places, torch.cat([x, x]).reshape(-1, x.shape[1], 2, 4)


def _types(program):
    def text(value):
        if not isinstance(value, torch.Tensor):
            return str(value)
        sizes = [str(s) for s in (*value.shape, *value.stride(), value.storage_offset())]
        return sizes, value.dtype, value.device, value.requires_grad

    return {node.name: pytree.tree_map(text, node.meta.get("val")) for node in program.graph.nodes}


def _views():
    return capture(Views(), (torch.randn(3, 5, 8),))


@pytest.fixture
def cold():
    with shape_memo.fresh_memory() as memory:
        yield memory.results


@pytest.mark.parametrize("with_weights", [False, True])
def test_shapes_from_memory_are_those_that_torch_derives(programs, with_weights, cold):
    found = [program.copy() for program in programs.values()] if with_weights else [_views()]
    with shape_memo.fresh_memory(0):
        for program in found:
            derive_shapes(program)
        want = [_types(program) for program in found]
    for _ in range(2):
        for program in found:
            derive_shapes(program)
        assert [_types(program) for program in found] == want
    assert cold


def test_a_second_derivation_runs_nothing_anew(cold):
    program = _views()
    derive_shapes(program)
    known = len(cold)
    derive_shapes(program.copy())
    assert len(cold) == known


@pytest.mark.parametrize("view", ["aten.slice.Tensor(%x, 1, 0, 9, 2)", "aten.expand(%k, [3, 9])", "aten.t(%x)"])
def test_a_result_does_not_have_the_gaps_of_its_operand(view):
    """torch gives a dense result where the operand has gaps or repeats itself."""
    program = parse_program(f'%x : f32[3,9]; %k = param "k" : f32[1,9]; %v = {view}; %y = aten.relu(%v); return %y')
    (relu,) = program.find("aten.relu")
    value, derived = program(torch.randn(3, 9)), relu.meta["val"]
    assert (tuple(derived.shape), derived.stride()) == (tuple(value.shape), value.stride())


def test_numbers_that_are_equal_give_results_of_their_own_type(cold):
    dtypes = []
    for number in ("1", "1.0", "True"):
        program = parse_program(f"%x : i64[2]\n%y = aten.mul.Scalar(%x, {number})\nreturn %y")
        dtypes.append(program.outputs()[0].meta["val"].dtype)
    assert dtypes == [torch.int64, torch.float32, torch.int64]


def test_a_size_that_one_graph_fixes_is_not_fixed_in_another(cold):
    text = "%x : f32[batch,4]\n%y = aten.relu(%x)\n%z = aten.exp(%y)\nreturn %z"
    program = parse_program(text)
    wrong = program.copy()
    (exp,) = wrong.find("aten.exp")
    exp.target, exp.args = torch.ops.aten.view.default, (exp.args[0], [2, 4])
    fixed = []
    for _ in range(2):
        derive_shapes(wrong)
        fixed.append(_types(wrong))
        derive_shapes(program)
        assert not isinstance(program.outputs()[0].meta["val"].shape[0], int)
    assert fixed[0] == fixed[1]
