"""Streams with a mean of zero and in another basis; the oracle is torch's own module in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, capture
from fxopt.errors import DataError
from fxopt.ir.cost import cost
from fxopt.ir.parser import parse_program
from fxopt.passes.common.hadamard import hadamard_basis
from fxopt.passes.common.run_until import values_until
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import find_groups
from fxopt.workload import Workload

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, TOKENS = 16, 6
ROTATED = "layer_norm_to_rms_norm, rotate_stream"


class Block(nn.Module):
    """Attention and a perceptron with layer scale; norms where ``order`` says: before, behind, or both."""

    def __init__(self, order="pre"):
        super().__init__()
        self.order = order
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 24, bias=False), nn.Linear(24, WIDTH)
        self.scale = nn.Parameter(torch.rand(WIDTH))

    def attention(self, x):
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def perceptron(self, x):
        return self.down(F.gelu(self.up(x)))

    def forward(self, x):
        a, b, c, d = self.norms
        if self.order == "pre":
            x = x + self.scale * self.attention(a(x))
            return x + self.perceptron(b(x))
        if self.order == "post":
            x = a(x + self.attention(x))
            return b(x + self.perceptron(x))
        if self.order == "parallel":
            return x + self.attention(a(x)) + self.perceptron(b(x))
        x = x + c(self.attention(a(x)))
        return x + d(self.perceptron(b(x)))


class Transformer(nn.Module):
    """Patches, class and register tokens and positions; the class token's features and scores, or the tokens too."""

    def __init__(self, order="pre", gives="scores", depth=1):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv1d(3, WIDTH, 2, 2)
        self.tokens = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.position = nn.Parameter(torch.randn(1, TOKENS + 2, WIDTH))
        self.blocks = nn.ModuleList(Block(order) for _ in range(depth))
        self.norm, self.head, self.gives = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5), gives
        for norm in (m for m in self.modules() if isinstance(m, nn.LayerNorm)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
        self.eval()

    def forward(self, x):
        x = self.patches(x).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1) + self.position
        post = self.blocks[0].order == "post"
        x = self.norm(x) if post else x
        for block in self.blocks:
            x = block(x)
        x = x if post else self.norm(x)
        return self.head(x[:, 0]) if self.gives == "scores" else (x, self.head(x[:, 0]))


class Signals:
    """Random signals with strong and weak directions, as training data."""

    metric = "none"

    def batches(self, split, *, batch_size, seed=None):
        generator = torch.Generator().manual_seed(1)
        for _ in range(4):
            yield (torch.randn(8, 3, 2 * TOKENS, generator=generator, dtype=torch.float64),), torch.zeros(8)

    def evaluate(self, model, split="test"):
        return 0.0


def build(module, passes):
    """The outcome of passes on a module in float64, whose outputs must be the module's own."""
    module = copy.deepcopy(module).double()
    x = torch.randn(8, 3, 2 * TOKENS, dtype=torch.float64)
    program = capture(module, (x,), dynamic=None)
    workload = Workload(name="signals", model=lambda: module, inputs=lambda: ((x,), {}), data=Signals())
    outcome = Pipeline.parse(passes).run(program, workload=workload)
    other = torch.randn_like(x)
    with torch.no_grad():
        want, got = module(other), outcome.program(other)
    for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (want, got)), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
    return outcome


def count(program, op):
    return sum(1 for _ in program.find(f"aten.{op}"))


def reasons(outcome):
    return [skip.reason for step in outcome.steps for skip in step.skips]


@pytest.mark.parametrize(("order", "norms"), [("pre", 3), ("parallel", 3)])
def test_the_mean_goes_into_what_writes_a_stream_and_the_rest_into_what_reads_it(order, norms):
    outcome = build(Transformer(order), ROTATED)
    program = outcome.program
    assert (count(program, "layer_norm"), count(program, "rms_norm")) == (0, norms)
    assert all(node.args[2] is None for node in program.find("aten.rms_norm"))
    assert count(program, "mul") == 0, "the layer scale is still there"
    assert reasons(outcome) == []
    assert cost(program).macs == cost(capture(Transformer(order), (torch.randn(8, 3, 2 * TOKENS),), dynamic=None)).macs
    assert all(step.findings.proof == "local" for step in outcome.steps if step.changed)


def test_a_hadamard_basis_needs_no_data_and_spreads_outliers():
    """Ratios of the largest to the mean magnitude of what the first norm gives, channel by channel."""
    net = Transformer()
    with torch.no_grad():
        net.position[..., 5] += 30
    peaks = []
    for passes in ("layer_norm_to_rms_norm", "layer_norm_to_rms_norm, rotate_stream(basis='hadamard')"):
        program = build(net, passes).program
        norm = next(iter(program.find("aten.rms_norm")))
        seen = values_until(program, [torch.randn(8, 3, 2 * TOKENS, dtype=torch.float64)], {norm})[norm]
        sizes = seen.abs().mean((0, 1))
        peaks.append((sizes.max() / sizes.mean()).item())
    assert peaks[0] > 5
    assert peaks[1] < 2
    outcome = Pipeline.parse(passes).run(capture(Transformer(), (torch.randn(8, 3, 2 * TOKENS),), dynamic=None))
    assert reasons(outcome) == []


@pytest.mark.parametrize(("width", "least"), [(16, 16), (48, 16), (7, 1)])
def test_a_hadamard_basis_is_orthogonal_and_spreads_a_channel_over_a_power_of_two(width, least):
    basis = hadamard_basis(width)
    torch.testing.assert_close(basis @ basis.T, torch.eye(width, dtype=torch.float64))
    assert int((basis.abs().amax(0) <= least**-0.5 + 1e-12).sum()) == width
    assert torch.equal(basis, hadamard_basis(width))


def test_an_output_keeps_the_norm_and_gets_its_basis_back():
    program = build(Transformer("pre", "tokens"), "layer_norm_to_rms_norm").program
    last = list(program.find("aten.rms_norm"))[-1]
    assert last.args[2] is not None
    rotated = build(Transformer("pre", "tokens"), "layer_norm_to_rms_norm, rotate_stream(matrices=0.5)").program
    assert all(node.args[2] is None for node in rotated.find("aten.rms_norm"))
    assert count(rotated, "linear") == count(program, "linear") + 1


def test_a_post_norm_needs_a_matrix_on_every_residual_sum():
    few = build(Transformer("post"), "layer_norm_to_rms_norm(matrices=0.01)")
    assert (count(few.program, "layer_norm"), count(few.program, "rms_norm")) == (2, 1)
    assert all("matrices of 16 x 16 would have to be inserted" in reason for reason in reasons(few))
    every = build(Transformer("post"), "layer_norm_to_rms_norm(matrices=0.5), rotate_stream")
    assert count(every.program, "layer_norm") == 0
    assert all(node.args[2] is None for node in every.program.find("aten.rms_norm"))
    assert count(every.program, "linear") == count(few.program, "linear") + 2
    units = [group.unit for group in find_groups(couple(every.program))]
    assert units.count("stream") == 3, "each has a width of its own"


def test_a_sandwich_has_streams_of_its_branches():
    outcome = build(Transformer("sandwich"), "layer_norm_to_rms_norm(matrices=0.9), rotate_stream(matrices=0.9)")
    assert (count(outcome.program, "layer_norm"), count(outcome.program, "rms_norm")) == (0, 5)


class Odd(nn.Module):
    """A stream that something else than a norm reads, or that no layer writes."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.norm, self.head = kind, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)
        self.write, self.raw, self.deep = (
            nn.Linear(3, WIDTH),
            nn.Linear(WIDTH, 4),
            nn.Conv1d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH),
        )
        self.both = nn.LayerNorm([2 * TOKENS, WIDTH])
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        x = self.write(x.transpose(1, 2))
        if self.kind == "raw":
            return self.head(self.norm(x)) + self.raw(x)
        if self.kind == "depthwise":
            return self.head(self.norm(self.deep(x.transpose(1, 2)).transpose(1, 2)))
        if self.kind == "several dims":
            return self.head(self.both(x))
        return self.head(self.norm(F.gelu(x)))


@pytest.mark.parametrize(
    ("kind", "words"),
    [("raw", "aten.linear reads %"), ("depthwise", "no layer whose weights could be changed"),
     ("several dims", "over several dims"), ("gelu", "comes from aten.gelu")],
)  # fmt: skip
def test_what_cannot_be_turned_is_left_with_the_reason(kind, words):
    outcome = build(Odd(kind), "layer_norm_to_rms_norm")
    assert count(outcome.program, "layer_norm") == 1
    (skip,) = outcome.steps[-1].skips
    assert words in skip.reason
    assert "layer_norm" in skip.node
    assert "test_streams.py" in skip.source


class Tied(nn.Module):
    """Two encoders and a head that share one table of embeddings: int64 [N,T] -> float [N,T,12]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.first, self.second = nn.Embedding(12, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH, elementwise_affine=False) for _ in range(4))

    def forward(self, ids):
        a, b = self.table(ids), self.table(ids.flip(1))
        a, b = a + self.first(self.norms[0](a)), b + self.second(self.norms[1](b))
        return F.linear(self.norms[2](a) + self.norms[3](b), self.table.weight)


def test_streams_that_share_a_table_get_one_basis_and_stay_tied():
    class Ids(Signals):
        def batches(self, split, *, batch_size, seed=None):
            yield (torch.randint(0, 12, (4, 5), generator=torch.Generator().manual_seed(0)),), torch.zeros(4)

    module = Tied().double()
    ids = torch.randint(0, 12, (2, 5))
    workload = Workload(name="ids", model=lambda: module, inputs=lambda: ((ids,), {}), data=Ids())
    outcome = Pipeline.parse("rotate_stream").run(capture(module, (ids,)), workload=workload)
    torch.testing.assert_close(outcome.program(ids), module(ids), rtol=1e-9, atol=1e-9)
    tables = [t for t in outcome.program.tensors().values() if t.shape == (12, WIDTH)]
    assert len({id(t) for t in tables}) == 1
    assert not torch.allclose(tables[0], module.table.weight)


def test_the_rotated_signal_has_its_principal_components_in_order():
    outcome = build(Transformer(), ROTATED)
    program, sums = outcome.program, torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    for (x,), _ in Signals().batches("train", batch_size=8):
        env = {}
        for node in program.graph.nodes:
            if node.op == "call_function":
                env[node] = node.target(*torch.fx.map_arg(node.args, env.get), **torch.fx.map_arg(node.kwargs, env.get))
            elif node.op != "output":
                env[node] = x if node.op == "placeholder" else program.tensor(node).detach()
        for norm in program.find("aten.rms_norm"):
            rows = env[norm].flatten(0, -2)
            sums += rows.T @ rows / len(rows)
    energy = sums.diagonal()
    assert float((sums - energy.diag()).abs().max()) < 1e-6 * float(energy.max())
    assert bool((energy.diff() <= 1e-9).all())


def test_a_rotation_needs_data_only_where_there_is_something_to_rotate():
    program = capture(Transformer(depth=1), (torch.randn(1, 3, 2 * TOKENS),), dynamic=None)
    Pipeline.parse("rotate_stream").run(program)
    with pytest.raises(DataError, match="rotate_stream needs data"):
        Pipeline.parse(ROTATED).run(program)


def test_the_stream_is_a_unit_of_its_own_and_shrinks_everywhere():
    outcome = build(Transformer(), ROTATED)
    units = [group.unit for group in find_groups(couple(outcome.program))]
    assert units.count("stream") == 1
    small = Pipeline.parse("prune_channels(ratio=0.25, units=('stream',))").run(outcome.program).program
    assert {n.args[1][0] for n in small.find("aten.rms_norm")} == {12}
    shapes = {name: tuple(t.shape) for name, t in small.tensors().items()}
    assert shapes["blocks.0.q.weight"] == (16, 12)
    assert shapes["blocks.0.down.weight"] == (12, 24)
    assert shapes["position"] == (1, TOKENS + 2, 12)
    before = Pipeline.parse("zero_channels(ratio=0.25, units=('stream',))").run(outcome.program).program
    x = torch.randn(8, 3, 2 * TOKENS, dtype=torch.float64)
    torch.testing.assert_close(small(x), before(x), rtol=1e-9, atol=1e-9)


WRITTEN_OUT = """
%x : f32[2,4]
%w = param "norm.weight" : f32[4]
%a = aten.{square}
%b = aten.mean.dim(%a, [-1], True)
%c = aten.add.Tensor(%b, 1e-06)
%d = aten.rsqrt(%c)
%e = aten.mul.Tensor(%x, %d)
{rest}
"""


@pytest.mark.parametrize(
    ("square", "rest", "merged"),
    [
        ("pow.Tensor_Scalar(%x, 2)", "%y = aten.mul.Tensor(%w, %e)\nreturn %y", True),
        ("mul.Tensor(%x, %x)", "%s = aten.add.Tensor(%w, 1.0)\n%y = aten.mul.Tensor(%e, %s)\nreturn %y", True),
        ("pow.Tensor_Scalar(%x, 2)", "%y = aten.mul.Tensor(%w, %e)\n%z = aten.relu(%e)\nreturn %y, %z", True),
        ("pow.Tensor_Scalar(%x, 3)", "%y = aten.mul.Tensor(%w, %e)\nreturn %y", False),
        ("mul.Tensor(%x, %w)", "%y = aten.mul.Tensor(%w, %e)\nreturn %y", False),
    ],
)
def test_rms_norms_that_are_written_out_become_one_op(square, rest, merged):
    program = parse_program(WRITTEN_OUT.format(square=square, rest=rest))
    outcome = Pipeline.parse("merge_rms_norm").run(program)
    assert count(outcome.program, "rms_norm") == merged
    x = torch.randn(2, 4)
    for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (program(x), outcome.program(x))), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_a_weight_behind_a_cast_stays_outside():
    text = WRITTEN_OUT.format(square="pow.Tensor_Scalar(%h, 2)", rest="%g = aten.to.dtype(%e, torch.float16)")
    text = (
        text.replace("f32", "f16")
        .replace("%a =", "%h = aten.to.dtype(%x, torch.float32)\n%a =")
        .replace("(%x, %d)", "(%h, %d)")
    )
    program = parse_program(text + "%y = aten.mul.Tensor(%w, %g)\nreturn %y")
    small = Pipeline.parse("merge_rms_norm").run(program).program
    (norm,) = small.find("aten.rms_norm")
    assert norm.args[2] is None
    x = torch.randn(2, 4).half()
    torch.testing.assert_close(small(x), program(x))
