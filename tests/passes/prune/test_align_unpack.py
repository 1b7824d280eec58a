"""Ragged and packed choices are brought into a form that shrink can remove, and the numbers stay."""

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture


class Packed(nn.Module):
    """Attention with query, key and value from one layer; the output projection reads other places of each head."""

    def __init__(self, ragged):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj, self.out = nn.Linear(6, 3 * 12), nn.Linear(12, 6), nn.Linear(6, 2)
        with torch.no_grad():
            for head, places in enumerate([(0, 3), (1, 2), (2, 3)] if ragged else [(1, 3)] * 3):
                self.proj.weight[:, [4 * head + p for p in places]] = 0

    def forward(self, x):
        q, k, v = self.qkv(x).view(x.shape[0], -1, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(self.proj(y.transpose(1, 2).reshape(x.shape[0], -1, 12)))


class Grouped(nn.Module):
    """A grouped convolution that reads other channels of each group as zero."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b, self.c = (
            nn.Conv2d(2, 12, 3),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 6, 3, groups=3),
            nn.Conv2d(6, 2, 1),
        )
        with torch.no_grad():
            for group, places in enumerate([(0,), (2,), (3,)]):
                self.b.weight[2 * group : 2 * group + 2, places] = 0

    def forward(self, x):
        return self.c(self.b(self.norm(self.a(x)).relu()).relu())


def after(model, inputs, text):
    outcome = Pipeline.parse(text).run(capture(model.eval(), (inputs,)))
    return {name: tuple(t.shape) for name, t in outcome.program.tensors().items()}, outcome


X = torch.randn(2, 5, 6)


@pytest.mark.parametrize(
    ("ragged", "text", "rows"),
    [
        (False, "shrink", None),  # the value is tied to query and key
        (False, "unpack_qkv, shrink", 6),
        (True, "unpack_qkv, shrink", 12),  # another place in each head
        (True, "unpack_qkv, align, shrink", 6),
    ],
)
def test_attention(ragged, text, rows):
    shapes, _ = after(Packed(ragged), X, text)
    if rows is None:
        assert shapes["qkv.weight"] == (36, 6)
    else:
        assert shapes["qkv.weight_2"] == (rows, 6)
        assert shapes["qkv.weight_0"] == (12, 6)


def test_groups_of_a_convolution():
    shapes, _ = after(Grouped(), torch.randn(2, 2, 8, 8), "shrink")
    assert shapes["a.weight"][0] == 12
    shapes, _ = after(Grouped(), torch.randn(2, 2, 8, 8), "align, shrink")
    assert shapes["a.weight"][0] == shapes["norm.running_mean"][0] == 9
    assert shapes["b.weight"] == (6, 3, 3, 3)


def test_what_is_in_order_already_is_left():
    _, outcome = after(Packed(False), X, "unpack_qkv, align, align")
    assert [step.changed for step in outcome.steps] == [True, False, False]


def test_rotary_positions_forbid_another_order():
    class Rotary(Packed):
        def forward(self, x):
            q, k, v = self.qkv(x).view(x.shape[0], -1, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
            v = v * torch.arange(1.0, 5.0)  # the same numbers for all heads
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(self.proj(y.transpose(1, 2).reshape(x.shape[0], -1, 12)))

    _, outcome = after(Rotary(True), X, "unpack_qkv, align")
    assert not outcome.steps[1].changed
    assert any("zeros are at other places" in str(s) for s in outcome.steps[1].skips)
