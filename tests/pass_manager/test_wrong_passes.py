"""Wrong exact passes are caught, and right ones of the same kinds are not."""

import pytest
import torch

from fxopt import Pipeline, graph_pass
from fxopt.errors import PassError
from tests.cases import wrong_passes as wp

aten = torch.ops.aten


@pytest.mark.parametrize("name", wp.WRONG)
def test_a_wrong_pass_is_caught(name):
    graph, pass_ = wp.WRONG[name]
    with pytest.raises(PassError):
        Pipeline.of(pass_()).run(wp.program_of(graph))


def test_there_are_enough_wrong_passes():
    assert len(wp.WRONG) >= 40


def test_what_is_out_of_reach_is_so():
    pass_ = wp.above_a_computed_number()
    assert pass_.name in wp.OUT_OF_REACH
    assert Pipeline.of(pass_()).run(wp.program_of(wp.NET)).steps[0].changed


def _replace(op, make):
    def rewrite(program):
        wp.behind(program, wp.first(program, op), make)

    return rewrite


RIGHT = {
    "relu_of_relu": (wp.RELU, _replace("aten.relu", lambda call, x: call(aten.relu.default, x))),
    "abs_behind_relu": (wp.RELU, _replace("aten.relu", lambda call, x: call(aten.abs.default, x))),
    "clamp_behind_softmax": (wp.SOFT, _replace("aten.softmax.int", lambda call, x: call(aten.clamp.default, x, 0.0, 1.0))),
    "clamp_behind_tanh": (wp.NET, _replace("aten.tanh", lambda call, x: call(aten.clamp.default, x, -1.0, 1.0))),
    "twice_and_half": (wp.NET, _replace("aten.tanh", lambda call, x: call(aten.mul.Tensor, call(aten.mul.Tensor, x, 2.0), 0.5))),
    "copy": (wp.SEQUENCE, _replace("aten.tanh", lambda call, x: call(aten.clone.default, x))),
    "negated_twice": (wp.NET, _replace("aten.linear", lambda call, x: call(aten.neg.default, call(aten.neg.default, x)))),
    "behind_a_draw": (wp.WRONG["two_draws_made_one"][0], _replace(
        "aten.sub.Tensor", lambda call, x: call(aten.clone.default, x))),
    "beside_a_write": (wp.BUFFER, _replace("aten.mul.Tensor", lambda call, x: call(aten.clone.default, x))),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_pass_is_not_refused(name):
    graph, rewrite = RIGHT[name]

    @graph_pass
    def right(program):
        rewrite(program)

    step = Pipeline.of(right()).run(wp.program_of(graph)).steps[0]
    assert step.changed
    assert step.findings.error <= 1e-9


def test_a_draw_before_another_may_go():
    """The draws behind it are what they were: a stream of random numbers would change them."""
    graph = (
        "%x : f32[batch,4]; %n = aten.rand_like(%x); %z = aten.mul.Tensor(%n, 0.0); "
        "%d = aten.dropout(%x, 0.5, True); %y = aten.add.Tensor(%d, %z); return %y"
    )

    @graph_pass(assumes_finite=True)
    def drop_nothing(program):
        node = wp.first(program, "aten.add.Tensor")
        program.replace(node, program.call(aten.clone.default, node.args[0], like=node))
        program.graph.eliminate_dead_code()
        for noise in program.find("aten.rand_like"):
            if not noise.users:
                program.graph.erase_node(noise)

    program = wp.program_of(graph)
    step = Pipeline.of(drop_nothing()).run(program).steps[0]
    assert step.changed


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.zeros(x.shape[0], 4) @ x.T,
        lambda x: x * (torch.arange(4) / 4),
        lambda x: torch.baddbmm(torch.ones(2, 4, 4), x[:, :, None].expand(2, 4, 4), x[:, None].expand(2, 4, 4)),
        lambda x: torch.zeros(9, 4).index_add(0, torch.arange(2), x),
        lambda x: torch.full((2, 4), 0.5).scatter(1, x.argmax(1, keepdim=True), x),
        lambda x: torch.lerp(x, torch.linspace(0, 1, 4), torch.eye(4)[0]),
        lambda x: x.masked_fill(torch.ones(4, 4).triu(1).bool()[:2], float("-inf")).softmax(1),
        lambda x: torch.where(x > 0, torch.tensor(1.0), x) + torch.scalar_tensor(2.0),
        lambda x: torch.ones(2, 4).to(torch.float32) * x + x.new_zeros(4),
    ],
)
def test_tensors_made_in_forward_are_float64_in_the_twin(make):
    """Compared end to end with a wrong pass in place, which needs the twin to run."""
    from fxopt import capture
    from fxopt.numerics.execute import run
    from fxopt.numerics.float64 import to_float64

    class Net(torch.nn.Module):
        def forward(self, x):
            return make(x)

    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    program = capture(Net(), (x,), dynamic=None)
    (out,) = run(to_float64(program), [x], wide=True).outputs
    assert out.dtype == torch.float64
    assert torch.allclose(out, make(x).double(), rtol=1e-5, equal_nan=True)
