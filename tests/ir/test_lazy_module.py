"""Generated code follows the graph, on whichever way it is asked for."""

import copy
import inspect
import pickle

import pytest
import torch

from fxopt.ir.parser import parse_program

WAYS = {
    "called": lambda module, x: module(x),
    "forward": lambda module, x: module.forward(x),
    "copied": lambda module, x: copy.deepcopy(module)(x),
    "copied shallowly": lambda module, x: copy.copy(module)(x),
    "pickled": lambda module, x: pickle.loads(pickle.dumps(module))(x),
    "exported": lambda module, x: torch.export.export(module, (x,)).module()(x),
}


@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_an_edit_shows_however_it_is_run(way, called_before):
    program = parse_program("%x : f32[2,4]\n%y = aten.relu(%x)\nreturn %y")
    x = torch.tensor([[-1.0, 2.0, -3.0, 4.0]] * 2)
    if called_before:
        assert torch.equal(program.module(x), x.clamp(min=0))
    (relu,) = program.find("aten.relu")
    relu.target = torch.ops.aten.neg.default
    program.module.recompile()
    assert torch.equal(WAYS[way](program.module, x), -x)


def test_text_and_signature_are_those_of_the_graph():
    program = parse_program("%x : f32[2,4]\n%y = aten.relu(%x)\nreturn %y")
    assert "aten.relu" in program.module.code
    assert "aten.relu" in str(program.copy().module)
    assert list(inspect.signature(program.copy().module.forward).parameters) == ["x"]


def test_two_programs_do_not_share_code():
    program = parse_program("%x : f32[2,4]\n%y = aten.relu(%x)\nreturn %y")
    twin = program.copy()
    (relu,) = twin.find("aten.relu")
    relu.target = torch.ops.aten.neg.default
    twin.module.recompile()
    x = torch.tensor([[-1.0, 2.0, -3.0, 4.0]] * 2)
    assert torch.equal(program(x), x.clamp(min=0))
    assert torch.equal(twin(x), -x)
