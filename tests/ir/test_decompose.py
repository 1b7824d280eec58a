"""A call in other ops computes what it did, for any batch, under its name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxopt
from fxopt.ir.decompose import can_decompose, decompose
from fxopt.ir.printer import op_name
from fxopt.ir.shape_inference import derive_shapes


class _Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.norm(x) * 2


class _Chunks(nn.Module):
    """Several results, of which one is read twice and one not at all."""

    def forward(self, x):
        a, b, _ = x.chunk(3, 1)
        return a + b, b


class _Flat(nn.Module):
    """Needs the batch to say what it gives."""

    def forward(self, x):
        return F.dropout(x.transpose(1, 2).flatten(1), training=False) + 1


class _Cells(nn.Module):
    """Takes indices that no operand gives."""

    def forward(self, x):
        return F.adaptive_avg_pool2d(x, 2) + 1


@pytest.mark.parametrize(
    ("net", "ops"),
    [
        (_Norm(), ("aten.batch_norm",)),
        (_Chunks(), ("aten.chunk",)),
        (_Flat(), ("aten.flatten.using_ints", "aten.dropout")),
        (_Cells(), ("aten.adaptive_avg_pool2d",)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_other_ops_in_the_place_of_a_call_give_the_same_for_any_batch(net, ops):
    net.eval()
    program = fxopt.capture(net, (torch.randn(2, 3, 4, 5),))
    calls = list(program.find(*ops))
    names = {node.name for node in program.graph.nodes if node not in calls}
    assert len(calls) == len(ops)
    derive_shapes(program)
    for node in calls:
        assert can_decompose(node)
        made = decompose(program, node, torch._decomp.decomposition_table)
        assert all(node.name in new.name or new.name in names for new in made)
    assert not list(program.find(*ops))
    assert names <= {node.name for node in program.graph.nodes}, "readers keep their names"
    program.graph.lint()
    program.module.recompile()
    x = torch.randn(7, 3, 4, 5)
    for got, want in zip(_flat(program(x)), _flat(net(x)), strict=True):
        assert torch.equal(got, want) or torch.allclose(got, want, atol=1e-6)
    before = {node.name: node.meta["val"].shape for node in program.graph.nodes if "val" in node.meta and node.op != "output"
              and isinstance(node.meta["val"], torch.Tensor)}  # fmt: skip
    derive_shapes(program)
    for node in program.graph.nodes:
        if node.name in before:
            assert list(map(str, before[node.name])) == list(map(str, node.meta["val"].shape)), op_name(node)


def test_the_value_keeps_the_name_of_the_call():
    program = fxopt.capture(_Norm().eval(), (torch.randn(2, 3, 4, 5),))
    (node,) = program.find("aten.batch_norm")
    (reader,), name = node.users, node.name
    decompose(program, node, torch._decomp.decomposition_table)
    assert name in [operand.name for operand in reader.all_input_nodes]


class _Makes(nn.Module):
    """One call without operands, and one that fills what it makes in place."""

    def forward(self, x):
        return F.dropout(x, 0.5, training=True) @ torch.eye(3)


def test_a_call_without_operands_is_of_the_same_sizes_and_one_that_writes_inside_is_left():
    program = fxopt.capture(nn.Sequential(_Makes()), (torch.randn(2, 3),))
    derive_shapes(program)
    (eye,), (dropout,) = program.find("aten.eye"), program.find("aten.dropout")
    assert decompose(program, dropout, torch._decomp.decomposition_table) is None
    assert [node.name for node in program.find("aten.dropout")] == [dropout.name]
    mode = dropout.meta["val"].fake_mode
    for node in decompose(program, eye, torch._decomp.decomposition_table):
        assert node.meta["val"].fake_mode is mode
    assert not list(program.find("aten.eye"))
    program.module.recompile()
    assert set((program(torch.ones(50, 3))).unique().tolist()) == {0.0, 2.0}


def _flat(value):
    return list(value) if isinstance(value, tuple) else [value]
