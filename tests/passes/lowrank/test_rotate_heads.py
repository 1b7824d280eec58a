"""Heads in the basis of singular vectors: the products are kept, and what is cut is the best that can be cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, capture
from fxopt.ir.cost import cost
from fxopt.testing import small_workload

pytestmark = pytest.mark.usefixtures("one_thread")


class Attention(nn.Module):
    """Attention of three heads of four dims in one of several spellings."""

    def __init__(self, how, bias=True, width=10, heads=3, dims=4):
        super().__init__()
        self.how, self.heads, self.dims = how, heads, dims
        self.q, self.k, self.v = (nn.Linear(width, heads * dims, bias=bias) for _ in range(3))
        self.o = nn.Linear(heads * dims, width, bias=bias)
        self.norm = nn.LayerNorm(dims)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (self.heads, self.dims)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.how == "norm":
            q = self.norm(q)
        if self.how == "matmul":
            y = ((q * self.dims**-0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        elif self.how == "bmm":
            q, k, v = (t.flatten(0, 1) for t in (q, k, v))
            y = (torch.bmm(q, k.transpose(1, 2)) / self.dims**0.5).softmax(-1)
            y = torch.bmm(y, v).unflatten(0, (-1, self.heads))
        elif self.how == "interleaved":  # dims of a head stand apart from one another
            q, k, v = (
                f(x).unflatten(-1, (self.dims, self.heads)).permute(0, 3, 1, 2) for f in (self.q, self.k, self.v)
            )
            y = F.scaled_dot_product_attention(q, k, v)
            return self.o(y.permute(0, 2, 3, 1).flatten(2))
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).flatten(2))


def made(how, **options):
    torch.manual_seed(0)
    return capture(Attention(how, **options).eval(), (torch.randn(2, 5, 10),))


def run(program, text):
    outcome = Pipeline.parse(text).run(program, workload=small_workload(program))
    return outcome.program, [str(skip) for skip in outcome.steps[0].skips]


def features(how, head):
    return torch.arange(head, 12, 3) if how == "interleaved" else torch.arange(4 * head, 4 * head + 4)


def scores_of(program, how, head):
    """x·Wq·Wkᵀ·yᵀ with biases as a matrix [11, 11], and Wv·Wo as one [11, 10], of one head."""
    w = {name: tensor.detach().double() for name, tensor in program.tensors().items()}
    ones = lambda name: torch.cat([w[f"{name}.weight"].T, w[f"{name}.bias"][None]])[:, features(how, head)]  # noqa: E731
    return ones("q") @ ones("k").T, ones("v") @ w["o.weight"][:, features(how, head)].T


@pytest.mark.parametrize("how", ["sdpa", "matmul", "bmm", "interleaved"])
def test_every_spelling_is_rotated_and_the_dims_come_in_the_order_of_singular_values(how):
    program = made(how)
    turned, skips = run(program, "rotate_heads")
    assert not skips
    for head in range(3):
        for old, new in zip(scores_of(program, how, head), scores_of(turned, how, head), strict=True):
            torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-5)
        values = torch.linalg.svdvals(scores_of(program, how, head)[0])[:4]
        rows = turned.tensors()["q.weight"].detach().double()[features(how, head)]
        bias = turned.tensors()["q.bias"].detach().double()[features(how, head)]
        torch.testing.assert_close(rows.square().sum(1) + bias.square(), values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_left_of_the_scores_is_their_best_approximation(bias):
    """The oracle is the truncated singular value decomposition of each head's product."""
    program = made("sdpa", bias=bias)
    turned, _ = run(program, "rotate_heads")
    for head in range(3):
        here = features("sdpa", head)
        q, k = (program.tensors()[f"{n}.weight"].detach().double()[here] for n in "qk")
        p, r = (turned.tensors()[f"{n}.weight"].detach().double()[here][:2] for n in "qk")
        if bias:
            q, k, p, r = (
                torch.cat([m, t.tensors()[f"{n}.bias"].detach().double()[here][: len(m), None]], 1)
                for m, n, t in ((q, "q", program), (k, "k", program), (p, "q", turned), (r, "k", turned))
            )
        best = float((torch.linalg.svdvals(q.T @ k)[2:] ** 2).sum())
        assert float((q.T @ k - p.T @ r).square().sum()) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("how", ["sdpa", "matmul", "bmm", "interleaved"])
def test_in_a_hadamard_basis_products_are_kept_and_a_loud_dim_is_heard_in_all(how):
    program = made(how)
    for name, tensor in program.tensors().items():
        if name in ("q.weight", "v.weight"):
            with torch.no_grad():
                tensor[features(how, 0)[1]] *= 100
    turned, skips = run(program, "rotate_heads(basis='hadamard')")
    assert not skips
    for head in range(3):
        for old, new in zip(scores_of(program, how, head), scores_of(turned, how, head), strict=True):
            torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4)
    for name in ("q.weight", "v.weight"):
        loud, spread = (p.tensors()[name].detach()[features(how, 0)].norm(dim=1) for p in (program, turned))
        assert loud.max() > 50 * loud.median()
        assert spread.max() < 1.5 * spread.min()


def test_cut_heads_lose_less_than_heads_that_were_not_rotated():
    program = made("sdpa")
    cut = "prune_channels(units=('head_dims',), ratio=0.5)"
    plain, (turned, _) = run(program, cut)[0], run(program, f"rotate_heads, {cut}")
    assert cost(turned) == cost(plain)
    assert turned.tensors()["q.weight"].shape == (6, 10)
    assert turned.tensors()["o.weight"].shape == (10, 6)
    x = torch.randn(20, 5, 10)
    want = program(x)
    assert (turned(x) - want).norm() < 0.8 * (plain(x) - want).norm()


def test_a_projection_of_fewer_inputs_than_dims_keeps_its_size():
    torch.manual_seed(0)
    program = capture(Attention("sdpa", bias=False, width=3).eval(), (torch.randn(2, 5, 3),))
    turned, skips = run(program, "rotate_heads")
    assert not skips
    assert not turned.tensors()["q.weight"].detach().reshape(3, 4, 3)[:, 3].any()


def test_what_cannot_be_rotated_says_why():
    _, skips = run(made("norm"), "rotate_heads")
    assert any("stands aten.layer_norm, which treats the dims of a head differently" in skip for skip in skips)

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(10, 12), nn.Linear(10, 4)

        def forward(self, x):
            q, k = self.q(x).unflatten(-1, (3, 4)).transpose(1, 2), self.k(x)[:, None]
            return q @ k.transpose(-1, -2), self.k(x)

    program = capture(Shared().eval(), (torch.randn(2, 5, 10),))
    turned, skips = run(program, "rotate_heads")
    assert turned.fingerprint() == program.fingerprint()
    assert len(skips) == 1


@pytest.mark.parametrize("how", ["chunk", "unbind"])
def test_packed_projections_are_rotated(how):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.o = nn.Linear(10, 36), nn.Linear(12, 10)

        def forward(self, x):
            y = self.qkv(x)
            if how == "chunk":
                q, k, v = (t.unflatten(-1, (3, 4)).transpose(1, 2) for t in y.chunk(3, -1))
            else:
                q, k, v = y.unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4).unbind(0)
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    program = capture(Packed().eval(), (torch.randn(2, 5, 10),))
    turned, skips = run(program, "rotate_heads")
    assert not skips
    w = turned.tensors()["qkv.weight"].detach().double().reshape(3, 3, 4, 10)
    b = turned.tensors()["qkv.bias"].detach().double().reshape(3, 3, 4)
    norms = w.square().sum(-1) + b.square()
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-4, atol=1e-6)  # both have the roots of the singular values
    assert (norms[0].diff(dim=-1) <= 0).all()
    cut = "prune_channels(units=('head_dims',), ratio=0.5)"
    assert cost(run(program, f"rotate_heads, {cut}")[0]).macs < 0.6 * cost(program).macs


def test_a_projection_that_something_else_reads_is_left():
    class Reads(Attention):
        def forward(self, x):
            return super().forward(x), self.q(x).sum(-1), self.v.weight.sum()

    program = capture(Reads("sdpa").eval(), (torch.randn(2, 5, 10),))
    _, skips = run(program, "rotate_heads")
    assert "is read in several places" in " ".join(skips)

    class Twice(Attention):
        def forward(self, x):
            q, k, v = (f(x) for f in (self.q, self.k, self.v))
            heads = [t.unflatten(-1, (3, 4)).transpose(1, 2) for t in (q, k, v)]
            return self.o(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)), q.sum(-1)

    program = capture(Twice("sdpa").eval(), (torch.randn(2, 5, 10),))
    turned, skips = run(program, "rotate_heads")
    assert any("reads its projection too" in skip for skip in skips)
    assert torch.equal(turned.tensors()["q.weight"], program.tensors()["q.weight"])
    assert not torch.equal(turned.tensors()["v.weight"], program.tensors()["v.weight"])


@pytest.mark.parametrize("how", ["expand", "repeat_interleave"])
def test_heads_that_share_keys_and_values_are_turned_alike_but_have_no_singular_vectors_in_common(how):
    class Grouped(nn.Module):
        """Six heads of four dims over two of keys and values."""

        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(10, n) for n in (24, 8, 8, 10))
            self.o = nn.Linear(24, 10)

        def forward(self, x):
            q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            if how == "expand":
                k, v = (t[:, :, None].expand(-1, -1, 3, -1, -1).flatten(1, 2) for t in (k, v))
            else:
                k, v = (t.repeat_interleave(3, 1) for t in (k, v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    program = capture(Grouped().eval(), (torch.randn(2, 5, 10),))
    turned, skips = run(program, "rotate_heads(basis='hadamard')")
    assert not skips
    for name in ("q", "k", "v", "o"):
        old, new = (p.tensors()[f"{name}.weight"].detach() for p in (program, turned))
        assert (old - new).abs().max() > 0.1
        assert torch.allclose(old.norm(), new.norm(), rtol=1e-5)
    unchanged, skips = run(program, "rotate_heads")
    assert len(skips) == 1
    assert unchanged.fingerprint() == program.fingerprint()
