"""A sub-network of the supernet is its extracted program, and what a smaller module of torch's own computes."""

import numpy as np
import pytest
import torch
from cases.coupling_models import Aliased, Attention, Depthwise, Glu, Llama, PixelShuffle, UNet, images, tokens
from cases.random_networks import NETWORKS, Random
from cases.shrinking import captured
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

from fxopt import Pipeline, capture
from fxopt.errors import OptionError, PassError
from fxopt.ir.cost import cost
from fxopt.numerics.float64 import to_float64, widen
from fxopt.passes.supernet.costs import Costs
from fxopt.passes.supernet.elastic import ElasticProgram
from fxopt.passes.supernet.extract_subnet import extract_subnet
from fxopt.passes.supernet.sampling import Sampler, choices
from fxopt.passes.supernet.space import Subnet, find_space

pytestmark = pytest.mark.usefixtures("one_thread")


class Residual(nn.Module):
    """Two blocks on a stream of 8, the first with a hidden width of 10."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(10)
        self.up, self.down, self.same, self.head = nn.Linear(8, 10), nn.Linear(10, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.down(torch.relu(self.norm(self.up(x))))
        x = x + self.same(torch.tanh(x))
        return self.head(x)


def residual():
    torch.manual_seed(0)
    model = Residual().eval()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model


def drawn(space, random):
    widths = tuple(int(random.integers(1, len(w.atoms) + 1)) for w in space.widths)
    return Subnet(widths, tuple(i for i in range(len(space.layers)) if random.random() < 0.5))


def agrees(program, seed, count=1, shrinks=True):
    """Sub-networks run in place against those that the exact passes make, in float64; and the costs of both."""
    wide = to_float64(program, to_run_passes=True)
    space = find_space(wide, "test")
    elastic = ElasticProgram(space)
    costs, random = Costs(elastic), np.random.default_rng(seed)
    for subnet in [space.least, *(drawn(space, random) for _ in range(count))]:
        own = elastic.run(elastic.canonical(subnet), [widen(v) for v in wide.example_leaves()])
        small = Pipeline.of(extract_subnet(widths=subnet.widths, off=subnet.off)).run(wide, watchers=()).program
        extracted = small(*wide.args, **wide.kwargs)
        for want, got in zip(pytree.tree_leaves(extracted), pytree.tree_leaves(own), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
        if shrinks:
            canonical = elastic.canonical(subnet)
            assert (costs.macs(canonical), costs.parameters(canonical)) == (cost(small).macs, cost(small).parameters)
    return space


@pytest.mark.parametrize(
    ("factory", "options", "inputs", "widths"),
    [
        (Attention, ("repeat_interleave",), images(5, 10), 2),
        (Llama, (nn.RMSNorm,), tokens(), 3),
        (Glu, (False,), images(), 1),
        (Depthwise, (), images(), 1),
        (PixelShuffle, (), images(), 1),
        (UNet, (), images(), 3),
        (Aliased, (), images(10), 1),
        (Residual, (), images(4), 2),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_subnet_is_its_extracted_program(factory, options, inputs, widths):
    assert len(agrees(captured(factory, options, inputs), 1).widths) == widths


def test_a_subnet_is_a_smaller_module():
    """Sliced by hand: 5 of 8 channels of the stream, 3 of 10 hidden ones; then without the second block."""
    model, x = residual().double(), torch.randn(6, 4).double()
    elastic = ElasticProgram(find_space(capture(model, (x,)), "test"))
    by_size = sorted(range(2), key=lambda i: len(elastic.space.widths[i].atoms))
    assert [len(elastic.space.widths[i].atoms) for i in by_size] == [8, 10]
    widths = tuple(5 if i == by_size[0] else 3 for i in range(2))
    with torch.no_grad():
        stream = x @ model.stem.weight[:5].T + model.stem.bias[:5]
        hidden = stream @ model.up.weight[:3, :5].T + model.up.bias[:3]
        norm = model.norm
        hidden = (hidden - norm.running_mean[:3]) / (norm.running_var[:3] + norm.eps).sqrt()
        hidden = (hidden * norm.weight[:3] + norm.bias[:3]).relu()
        stream = stream + hidden @ model.down.weight[:5, :3].T + model.down.bias[:5]
        short = stream @ model.head.weight[:, :5].T + model.head.bias
        stream = stream + stream.tanh() @ model.same.weight[:5, :5].T + model.same.bias[:5]
        whole = stream @ model.head.weight[:, :5].T + model.head.bias
        torch.testing.assert_close(elastic.run(Subnet(widths), [x]), whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(elastic.run(Subnet(widths, (1,)), [x]), short, rtol=1e-12, atol=1e-12)


def test_gradients_reach_what_is_used_of_the_shared_weights():
    program = capture(residual(), (torch.randn(6, 4),))
    elastic = ElasticProgram(find_space(program, "test"))
    for tensor in program.tensors().values():
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(True)
    widths = tuple(len(w.atoms) // 2 for w in elastic.space.widths)
    elastic.run(Subnet(widths), program.example_leaves()).square().sum().backward()
    gradient = program.tensors()["up.weight"].grad
    assert gradient[:5, :4].abs().sum() > 0
    assert gradient[5:].abs().max() == 0
    assert gradient[:, 4:].abs().max() == 0


def test_batch_norms_are_estimated_as_the_pass_does():
    program = capture(residual(), (torch.randn(6, 4),))
    elastic = ElasticProgram(find_space(program, "test"))
    x = torch.randn(40, 4) * 3 + 1
    (got,) = elastic.run_all(elastic.space.whole, [[x[:16]], [x[16:]], [x[:6]]], estimate_from=2)[2:]
    hidden = program.copy()
    with torch.no_grad():
        model = residual()
        read = model.up(model.stem(x)).double()
    hidden.set_tensors({"norm.running_mean": read.mean(0).float(), "norm.running_var": read.var(0).float()})
    torch.testing.assert_close(got, hidden(x[:6]), rtol=1e-5, atol=1e-5)


def test_what_shrink_cannot_remove_is_not_elastic():
    """Channels whose mean is taken away twice are not zero behind that, whatever makes them."""
    network = Random([("center", 0), ("center", 5), ("conv", 3)], 0, 0).eval()
    program = capture(network, (torch.randn(2, 3, 4, 4),))
    space = agrees(program, 0)
    assert "stem.weight" not in " ".join(width.name for width in space.widths)
    assert any("are not elastic" in skip.reason for skip in space.program.skips)


def test_widths_that_only_a_branch_that_is_off_has_are_one_spelling():
    elastic = ElasticProgram(find_space(capture(residual(), (torch.randn(6, 4),)), "test"))
    counts = [len(w.atoms) for w in elastic.space.widths]
    hidden = counts.index(10)
    one, other = list(counts), list(counts)
    one[hidden], other[hidden] = 3, 7
    assert elastic.canonical(Subnet(tuple(one), (0,))) == elastic.canonical(Subnet(tuple(other), (0,)))
    assert elastic.canonical(Subnet(tuple(one))) != elastic.canonical(Subnet(tuple(other)))


def test_draws_spread_over_all_macs():
    elastic = ElasticProgram(find_space(capture(residual(), (torch.randn(6, 4),)), "test"))
    costs, offered = Costs(elastic), choices(elastic.space, (0.25, 0.5, 0.75, 1.0))
    sampler = Sampler(elastic, offered, 0.2, 0)
    whole = costs.macs(elastic.space.whole)
    shares = [costs.macs(subnet) / whole for subnet in sampler.draw(3, 300)]
    assert min(shares) >= 0.2
    assert costs.macs(sampler.smallest) / whole < 0.35
    quarters = np.histogram(shares, 4, (min(shares), 1))[0]
    assert quarters.min() > 30
    assert sampler.draw(3, 5) == sampler.draw(3, 300)[:5]


def test_a_subnet_of_another_program():
    program = capture(residual(), (torch.randn(6, 4),))
    for options, problem in (("widths=(1,)", "has 1 numbers"), ("widths=(1, 99)", "1 to"), ("off=(7,)", "2 branches")):
        with pytest.raises(OptionError, match=problem):
            Pipeline.parse(f"zero_subnet({options})").run(program)


def test_a_quantized_program_is_refused():
    program = capture(residual(), (torch.randn(6, 4),))
    coded = Pipeline.parse("quantize_weights").run(program).program
    with pytest.raises(PassError, match="quantize after it"):
        Pipeline.parse("extract_subnet").run(coded)


def subnets_of_random_networks(examples):
    found = 0

    @settings(max_examples=examples)
    @given(NETWORKS, st.integers(0, 1 << 20))
    def check(network, seed):
        nonlocal found
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        found += bool(agrees(capture(network.eval(), (x,)), seed, shrinks=False).widths)

    check()
    assert found > examples // 3


def test_random_networks():
    subnets_of_random_networks(3)


@pytest.mark.zoo
def test_more_random_networks():
    subnets_of_random_networks(150)
