"""Blocks: what is found computes what the whole net does there, and nothing is found that reads or is read elsewhere."""

import json

import pytest
import torch
from cases.block_models import Attention, SqueezeExcite, captured, seeded
from torch import nn

from fxopt import Context
from fxopt.backend import find_backend
from fxopt.ir.alias_analysis import make_functional
from fxopt.ir.op_table import set_argument
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.trainable_module import Watching
from fxopt.numerics.error_metrics import relative_error
from fxopt.pass_manager.step import tidy
from fxopt.passes.blocks.block_program import put
from fxopt.passes.blocks.blocks_table import blocks
from fxopt.passes.blocks.find_blocks import find_blocks
from fxopt.runtime.timing import briefly
from fxopt.target import find_target
from fxopt.testing import small_models
from fxopt.testing.small_models import BROAD_MODEL
from fxopt.testing.small_workload import other_batch


def functional(program):
    make_functional(program)
    derive_shapes(program)
    return program


MODELS = {m.name: m.program for m in (*small_models(), BROAD_MODEL)} | {
    "squeeze_excite": lambda: captured(seeded(SqueezeExcite), 2, 3, 6, 6),
    "separate": lambda: captured(seeded(Attention), 2, 5, 8),
    "written_out": lambda: captured(seeded(Attention, fused=False, packed=True), 2, 5, 8),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_block_gives_what_the_whole_net_gives_there_for_any_batch(name):
    program = functional(MODELS[name]())
    found = find_blocks(program).blocks
    watching = Watching(program.module, tuple({n for b in found for n in (b.source, b.end)}))
    args, kwargs = other_batch(program, 5)
    leaves = [*args, *kwargs.values()]
    with torch.no_grad():
        watching.run(*leaves, enable_io_processing=False)
        for block in found:
            got = block.program(watching.seen[block.source])
            assert relative_error(watching.seen[block.end], got) < 1e-6, block.name
    assert len({block.name for block in found}) == len(found)


@pytest.mark.parametrize("name", MODELS)
def test_blocks_put_in_their_own_places_change_nothing(name):
    program = functional(MODELS[name]())
    found = find_blocks(program).blocks
    tops = [block for block in found if block.parent is None]
    leaves = [b for b in found if not any(o.parent == b.name for o in found)]
    args, kwargs = other_batch(program, 3)
    want = torch.utils._pytree.tree_leaves(program(*args, **kwargs))
    for chosen in ([], tops, leaves):
        twin = program.copy()
        put(twin, [(block, block.program) for block in chosen])
        tidy(twin)
        derive_shapes(twin)
        got = torch.utils._pytree.tree_leaves(twin(*args, **kwargs))
        assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
        assert set(twin.tensors()) == set(program.tensors())


def test_a_gate_reaches_from_what_it_weighs_to_the_product():
    found = find_blocks(captured(seeded(SqueezeExcite), 2, 3, 6, 6)).blocks
    (gate,) = [block for block in found if block.kind == "gate"]
    assert set(gate.program.tensors()) == {"down.weight", "down.bias", "up.weight", "up.bias"}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_attention_reaches_from_its_projections_to_that_of_its_output(fused, packed):
    found = find_blocks(captured(seeded(Attention, fused=fused, packed=packed), 2, 5, 8)).blocks
    (block,) = [block for block in found if block.kind == "attention"]
    names = {"out.weight", "out.bias"}
    names |= {"qkv.weight", "qkv.bias"} if packed else {f"{p}.{w}" for p in "qkv" for w in ("weight", "bias")}
    assert set(block.program.tensors()) == names
    (branch,) = [other for other in found if other.kind == "branch"]
    assert block.nodes < branch.nodes
    assert block.parent == branch.name


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return torch.sin(self.conv(torch.cos(self.conv(x)))) + 1


class Read(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        inner = torch.tanh(self.up(x))
        return self.down(inner), inner


class Sized(nn.Module):
    """A view by the number of examples of a value that no longer has it as a dim."""

    def __init__(self):
        super().__init__()
        self.linear, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        n = x.shape[0]
        flat = torch.cat([x, x], 0)
        y = torch.relu(self.linear(flat))
        return x + self.last(y.view(2, n, 4).mean(0))


def reasons(module, *shape, train=False):
    program = captured(module, *shape)
    for norm in program.find("aten.batch_norm"):
        set_argument(norm, "training", train)
    found = find_blocks(program)
    return " | ".join(reason for _, reason in found.others), [b.kind for b in found.blocks]


def test_a_weight_read_elsewhere_is_named():
    reason, _ = reasons(Shared(), 2, 4, 3, 3)
    assert "its weight 'conv.weight' is read by" in reason


def test_an_inner_value_that_is_an_output_is_named():
    reason, found = reasons(Read(), 2, 4)
    assert "is read by an output of the model too" in reason
    assert found == ["unit", "unit"]


def test_batch_norm_in_training_is_no_part_of_a_block():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    reason, found = reasons(net, 2, 3, 5, 5, train=True)
    assert "normalises over the batch" in reason
    assert found == []
    assert reasons(net, 2, 3, 5, 5) == ("", ["unit"])


def test_a_region_that_reads_a_size_of_the_whole_input_is_none():
    program = captured(Sized(), 2, 4)
    found = find_blocks(program)
    assert [b.kind for b in found.blocks] == ["branch", "unit", "unit"]  # the branch begins at x, which has the size
    (branch, *_) = found.blocks
    assert branch.program(torch.ones(7, 4)).shape == (7, 4)


def test_a_model_without_blocks():
    found = find_blocks(captured(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), 2, 3, 4, 4))
    assert found.blocks == ()
    assert blocks(captured(nn.ReLU(), 2, 3)).text().startswith("0 blocks")


def test_alike_blocks_share_a_number_and_the_table_is_json():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(3)), nn.Linear(6, 2))
    program = captured(net, 2, 6)
    with briefly():
        table = blocks(program, Context(target=find_target("host"), backend=find_backend("eager")))
    rows = json.loads(json.dumps(table.to_dict()))["rows"]
    units = [row for row in rows if row["kind"] == "unit"]
    assert len({row["alike"] for row in units}) == 2
    assert all(row["latency_share"] >= 0 for row in rows)
    assert [row["macs"] for row in units] == [36, 36, 36, 12]


def test_a_target_that_cannot_be_timed_shows_macs_and_says_so():
    program = captured(nn.Linear(6, 2), 2, 6)
    table = blocks(program, Context(target=find_target("raspberry_pi_4"), backend=find_backend("eager")))
    assert table.rows[0].latency_share is None
    assert "MACs alone" in (table.not_timed or "")
