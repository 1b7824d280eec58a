"""Recurrent layers stay one op: their cost against torch's own counter, their shapes against torch's own run."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from fxopt import Pipeline, capture
from fxopt.errors import PassError
from fxopt.frontend.pt2 import export_program
from fxopt.ir.cost import cost
from fxopt.ir.op_table import lookup
from fxopt.ir.shape_inference import derive_shapes

LAYERS = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"proj_size": 3, "bidirectional": True, "num_layers": 2, "batch_first": True}),
    (nn.GRU, {"num_layers": 2, "bias": False}),
    (nn.RNN, {"bidirectional": True, "nonlinearity": "relu"}),
]
X = torch.randn(3, 7, 4)


@pytest.fixture(params=LAYERS, ids=lambda case: f"{case[0].__name__} {case[1]}")
def layer(request):
    kind, options = request.param
    torch.manual_seed(0)
    return kind(4, 6, **options)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_macs_are_those_of_torchs_counter_and_shapes_those_of_its_run(layer):
    program = capture(layer, (X,), dynamic=None)
    assert sum(lookup(n).family == "recurrent" for n in program.find("aten.lstm", "aten.gru", "aten.rnn_relu")) == 1
    for real, node in zip(pytree.tree_leaves(program.module(X)), program.outputs(), strict=True):
        value = node.meta["val"]
        assert (real.shape, real.stride(), real.dtype) == (value.shape, value.stride(), value.dtype)
    found = cost(program)
    with FlopCounterMode(display=False) as counter:
        layer.to("meta")(X.to("meta"))
    assert (2 * found.macs, found.unknown) == (counter.get_total_flops(), ())


def test_cells_are_counted():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.LSTMCell(4, 6), nn.GRUCell(6, 5), nn.RNNCell(5, 2)

        def forward(self, x):
            return self.third(self.second(self.first(x)[0]))

    program = capture(Steps(), (X[0],))
    assert cost(program).macs == 4 * 6 * (4 + 6) + 3 * 5 * (6 + 5) + 2 * (5 + 2)  # of one example


def test_capture_and_export_run_no_step(layer, monkeypatch):
    """Torch derives the shapes by one call of a linear a step and more: here none is made, however long the sequence."""
    steps = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *args: steps.append(1) or linear(*args))
    program = capture(layer, (X.repeat(1, 30, 1),))
    exported = export_program(Pipeline.parse("clean_up").run(program).program)
    assert not steps
    assert len([n for n in exported.graph.nodes if n.op == "call_function"]) < 20


def test_a_weight_that_does_not_fit_is_found_without_a_step():
    program = capture(nn.LSTM(4, 6), (X,))
    program.set_tensor("weight_hh_l0", torch.zeros(24, 5))
    with pytest.raises(PassError, match="weights of"):
        derive_shapes(program)


def test_a_region_of_autocast_is_counted():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.LSTM(6, 3)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.second(self.first(x))[0]

    program = capture(Half(), (X,), dynamic=None)
    assert cost(program) == cost(capture(nn.Sequential(nn.Linear(4, 6), nn.LSTM(6, 3)), (X,), dynamic=None))
    assert "run in another dtype" in " ".join(program.notes)
