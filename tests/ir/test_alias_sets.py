"""Which values may share memory: for one node as for all at once, and what a run may write into."""

import pytest
import torch

from fxopt.ir.alias_analysis import alias_set, alias_sets, state_of
from fxopt.ir.parser import parse_program

VIEWS = """
%x : f32[batch,4]
%w = param "w" : f32[4,4]
%v = param "w" : f32[4,4]
%n = param "running_n" : f32[4]
%t = aten.transpose.int(%v, 0, 1)
%m = aten.add_.Tensor(%n, 1)
%y = aten.linear(%x, %t)
%z = aten.view(%y, [-1, 2, 2])
%d = aten.dropout(%z, 0.5, False)
%s = aten.add.Tensor(%d, %d)
%q = aten.linear(%x, %w)
%k = aten.topk(%q, 2)
%k0 = getitem(%k, 0)
%k1 = getitem(%k, 1)
%k2 = getitem(%k, 0)
%p = aten.unbind.int(%q)
%p0 = getitem(%p, 0)
return %s, %m, %q, %k0, %k1, %k2, %p0
"""


def test_the_set_of_one_node_is_that_of_all(programs):
    for name, program in {**programs, "views": parse_program(VIEWS)}.items():
        sets = alias_sets(program.graph)
        for node in program.graph.nodes:
            assert alias_set(program, node) == {n for n in sets if sets[n] is sets[node]}, (name, node)


def test_results_that_are_new_share_nothing_with_one_another_and_parts_of_one_do():
    program = parse_program(VIEWS)
    (k, p), found = (program.find("aten.topk"), program.find("aten.unbind.int")), alias_sets(program.graph)
    (values, places, again), (part,) = next(k).users, next(p).users
    assert found[values] is found[again]
    assert found[values] is not found[places]
    assert found[part] is found[part.args[0].args[0]]


@pytest.mark.parametrize("training", [False, True])
def test_what_a_run_writes_into_is_state(training):
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)).train(training)
    module = torch.export.export(net, (torch.randn(2, 2, 3, 3),)).module()
    on = parse_program(VIEWS)
    assert state_of(on) == {id(on.tensors()["running_n"])}
    before = {name: t.clone() for name, t in module.state_dict().items()}
    module(torch.randn(2, 2, 3, 3))
    changed = {name for name, t in module.state_dict().items() if not torch.equal(t, before[name])}
    from fxopt.frontend.capture import from_exported

    program = from_exported(torch.export.export(net, (torch.randn(2, 2, 3, 3),)), (torch.randn(2, 2, 3, 3),), {})
    state = {name for name, t in program.tensors().items() if id(t) in state_of(program)}
    assert state >= changed
    assert not any("weight" in name or "bias" in name for name in state)
