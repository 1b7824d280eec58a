"""The coupling of a program is found once, and again where anything has changed that it hangs on: beside a sweep from new."""

import gc
import weakref

import pytest
import torch

from fxopt import capture
from fxopt.ir.op_table import set_argument
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.shared_copy import shared_copy
from fxopt.passes.prune.coupling import analysis
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import find_groups


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.other, self.down = torch.nn.Linear(4, 6), torch.nn.Linear(4, 6), torch.nn.Linear(6, 6)
        self.last = torch.nn.Linear(6, 6)
        self.register_buffer("order", torch.tensor([3, 1, 2, 0, 5, 4]))

    def forward(self, x):
        h = self.up(x).relu() + self.other(x)
        return self.last(self.down(h.view(-1, 2, 3).permute(0, 2, 1).flatten(1)[:, self.order]))


@pytest.fixture
def program():
    return capture(Net(), (torch.randn(2, 4),))


def found(program):
    """The names of the groups and where their atoms lie, by the coupling that is taken and by a sweep from new."""
    return described(couple(program)), described(analysis._couple(program))


def described(sweep):
    axes = {
        node.name: [
            [f if isinstance(f, int) else sweep.resolve(f).tolist() for f in axis] for axis in sweep.all_axes(node)
        ]
        for node in sweep.program.graph.nodes
    }
    groups = [(g.name, g.unit, g.atoms.tolist(), [p.weight for p in g.places]) for g in find_groups(sweep)]
    sums = [(c.node.name, c.weight and c.weight.name, sweep.resolve(c.rows).tolist()) for c in sweep.contractions]
    reasons = [(reason.node.name, reason.text) for reason in sweep.reasons]
    return axes, groups, sums, reasons, sweep.pinned.tolist(), sorted(node.name for node in sweep.computed)


def test_a_copy_with_other_weights_is_not_swept_again(program, monkeypatch):
    sweep = couple(program)
    twin = shared_copy(program)
    twin.set_tensors({"up.weight": torch.zeros(6, 4)})
    monkeypatch.setattr(analysis, "sweep", None)  # it would fail if it were called
    again = couple(twin)
    assert couple(twin) is again is not sweep
    assert couple(program) is sweep
    monkeypatch.undo()
    assert all(node.graph is twin.graph for node in [*again.axes, *again.notes, *again.computed])
    assert len({*found(twin)[0][0]}) > 5
    assert described(again) == found(twin)[1] == described(sweep)


def no_relu(program):
    for node in program.find("aten.relu"):
        program.replace(node, node.args[0])


def other_view(program):
    view = next(program.find("aten.view", "aten.reshape"))
    set_argument(view, "shape" if view.target is torch.ops.aten.reshape.default else "size", [*view.args[1][:-2], 3, 2])
    permute = next(program.find("aten.permute"))
    permute.args = (permute.args[0], [0, 1, 2])


def other_operand(program):
    add = next(program.find("aten.add"))
    add.args = (add.args[1], add.args[1])


def other_order(program):
    program.set_tensor("order", torch.tensor([0, 0, 1, 2, 3, 4]))  # an index twice: these channels are tied


def tied(program):
    program.module.last.weight = program.module.down.weight


def fewer(program):
    program.set_tensor("up.weight", torch.zeros(1, 4))
    program.set_tensor("up.bias", torch.zeros(1))
    derive_shapes(program)


@pytest.mark.parametrize("edit", [no_relu, other_view, other_operand, other_order, tied, fewer])
@pytest.mark.parametrize("copied", [False, True])
def test_after_an_edit_it_is_found_anew(program, edit, copied):
    before = described(couple(program))
    work = shared_copy(program) if copied else program
    edit(work)
    taken, new = found(work)
    assert taken == new != before
    if copied:
        assert described(couple(program)) == before


def test_an_index_written_in_place_is_seen(program):
    before = described(couple(program))
    program.module.order.data[:] = torch.tensor([0, 0, 1, 2, 3, 4])
    taken, new = found(program)
    assert taken == new != before


def test_a_copy_does_not_keep_the_program_it_came_from():
    program = capture(Net(), (torch.randn(2, 4),))
    couple(program)
    twin, module = program.copy(), weakref.ref(program.module)
    couple(twin)
    del program
    gc.collect()
    assert module() is None
