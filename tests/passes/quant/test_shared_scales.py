"""One scale around an op, and outputs of linears, as a policy asks for them."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import capture
from fxopt.backend.quant_policy import Policy
from fxopt.passes.quant.decide import calibrated
from fxopt.passes.quant.placement import place
from fxopt.testing import small_workload

ONE_SCALE = Policy(one_scale=("aten.cat",))


class _Joined(nn.Module):
    """Two concatenations with a part in common, a pool behind one of them, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))
        self.d, self.e = nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        a, b, c = self.a(x), self.b(x), self.c(x)
        first, second = F.max_pool2d(torch.cat([a, b], 1), 2), torch.cat([b, c], 1)
        return self.head((self.d(first).mean((2, 3)) + self.e(second).mean((2, 3))).relu())


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    net = _Joined().eval()
    with torch.no_grad():
        net.b.weight.mul_(10)
    return capture(net, (torch.randn(2, 3, 12, 12),))


def _codes(program, policy):
    placement = place(program, policy, ())
    found = calibrated(program, small_workload(program), placement, policy, images=8, who="test")
    return placement, {node.name: (affine.scale, affine.zero_point) for node, affine in found.items()}


def test_what_is_joined_directly_or_through_another_join_has_one_scale_that_covers_all(program):
    _, apart = _codes(program, Policy())
    _, together = _codes(program, ONE_SCALE)
    joined = ["conv2d", "conv2d_1", "conv2d_2", "cat", "cat_1", "max_pool2d"]
    assert len({together[name] for name in joined}) == 1
    assert len({apart[name] for name in joined}) > 2
    assert together["conv2d"][0] >= max(apart[name][0] for name in joined) * 0.999
    others = apart.keys() - set(joined)
    assert {name: together[name] for name in others} == {name: apart[name] for name in others}


def test_the_output_of_a_linear_is_quantized_behind_its_activation_where_asked():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    program = capture(net, (torch.randn(2, 4),))
    policy = Policy()
    placement = place(program, dataclasses.replace(policy, linear_output=True), ())
    assert {"relu", "linear_1"} <= {node.name for node in placement.whole}
    assert "linear" not in {node.name for node in placement.values}
    assert not {node.name for node in place(program, policy, ()).whole}
