"""What stands in the place of a block starts where the closed form says, in float64, against scipy, numpy and torch."""

import numpy as np
import pytest
import tensorly
import tensorly.decomposition
import torch
from cases.block_entries import built, double, entry, error, samples_of
from cases.block_models import Attention, SqueezeExcite, captured, seeded
from scipy.signal import correlate
from torch import nn

from fxopt.ir.alias_analysis import make_functional
from fxopt.ir.cost import cost
from fxopt.ir.shape_inference import derive_shapes
from fxopt.passes.blocks.entries.grouped import co_cluster
from fxopt.passes.blocks.find_blocks import find_blocks


def block(net, kind, *shape):
    """The only block of a kind of a module, in float32, and what it reads for random inputs."""
    program = captured(net, *shape)
    make_functional(program)
    derive_shapes(program)
    (found,) = [b for b in find_blocks(program).blocks if b.kind == kind]
    x = torch.randn(7, *found.program.inputs()[0].meta["val"].shape[1:], generator=torch.Generator().manual_seed(5))
    return found.program, x


CONVOLUTIONS = {
    "square": (lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 6)),
    "stride and dilation": (lambda: nn.Conv2d(3, 5, 3, stride=2, padding=2, dilation=2, bias=False), (2, 3, 9, 9)),
    "in one dim": (lambda: nn.Conv1d(4, 4, 5, padding="same"), (2, 4, 9)),
    "not square": (lambda: nn.Conv2d(2, 3, (1, 3), padding=(0, 1)), (1, 2, 4, 6)),
}


@pytest.mark.parametrize("name", ["depthwise_pointwise", "pointwise_depthwise"])
@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_separable_convolution_with_a_term_for_each_pixel_is_the_dense_one(name, make):
    net, shape = make[0], make[1]
    conv = seeded(net)
    program, x = double(conv, *shape)
    whole = built(entry(name, terms=int(np.prod(conv.kernel_size))), program)
    assert error(program(x), whole(x)) < 1e-10


@pytest.mark.parametrize("name", ["depthwise_pointwise", "pointwise_depthwise"])
def test_what_a_separable_convolution_loses_is_what_numpy_says_of_the_singular_values(name):
    conv = seeded(nn.Conv2d, 4, 6, 3, padding=1, bias=False)
    program, _ = double(conv, 2, 4, 7, 6)
    twin = built(entry(name, terms=2), program)
    impulses = torch.zeros(4, 4, 7, 6, dtype=torch.float64)
    impulses[torch.arange(4), torch.arange(4), 2, 2] = 1  # the answer to an impulse is the kernel, turned around
    lost = (program(impulses) - twin(impulses)).square().sum()
    weight = conv.weight.detach().numpy()
    dim = 1 if name == "depthwise_pointwise" else 0
    matrices = [np.take(weight, c, dim).reshape(-1, 9) for c in range(weight.shape[dim])]
    want = sum((np.linalg.svd(m, compute_uv=False)[2:] ** 2).sum() for m in matrices)
    assert float(lost) == pytest.approx(want, rel=1e-9)


def test_the_first_layer_of_a_separable_convolution_is_a_correlation_by_scipy():
    program, x = double(seeded(nn.Conv2d, 1, 1, 3, padding=1, bias=False), 1, 1, 6, 6)
    twin = built(entry("depthwise_pointwise", terms=1), program)
    kernel = next(iter(program.tensors().values())).detach().numpy()[0, 0]
    assert np.allclose(twin(x)[0, 0].numpy(), correlate(x[0, 0].numpy(), kernel, mode="same"), atol=1e-12)


def low_rank_weight(outs, ins, ranks):
    generator = torch.Generator().manual_seed(2)
    core = torch.randn(ranks[0], ranks[1], 3, 3, generator=generator, dtype=torch.float64)
    left, right = (
        torch.randn(n, r, generator=generator, dtype=torch.float64) for n, r in ((outs, ranks[0]), (ins, ranks[1]))
    )
    return torch.einsum("or,is,rskl->oikl", left, right, core)


@pytest.mark.parametrize("form", ["channel", "spatial", "tucker"])
def test_a_chain_of_the_ranks_that_a_weight_has_is_the_layer(form):
    conv = nn.Conv2d(12, 12, 3, padding=1).double()
    weight = low_rank_weight(12, 12, (3, 3))
    if form == "spatial":
        generator = torch.Generator().manual_seed(2)
        a, b = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((12, 3, 6), (6, 12, 3)))
        weight = torch.einsum("ikr,rol->oikl", a, b)
    conv.weight.data = weight
    program, x = double(conv, 2, 12, 6, 6)
    twin = built(entry("low_rank_chain", form=form, share=0.5), program)
    assert error(program(x), twin(x)) < 1e-10
    assert cost(twin).macs <= 0.5 * cost(program).macs


def test_a_bottleneck_starts_as_the_tucker_form_of_its_samples():
    conv = nn.Conv2d(12, 12, 3, padding=1).double()
    conv.weight.data = low_rank_weight(12, 12, (3, 3))
    program, x = double(conv, 4, 12, 6, 6)
    twin = built(entry("bottleneck", share=0.5), program, samples_of(program, x))
    assert error(program(x), twin(x)) < 1e-10
    assert any("relu" in str(node.target) for node in twin.graph.nodes)
    assert error(program(3 * x), twin(3 * x)) > 1e-3  # and is not linear


@pytest.mark.parametrize("changed", [{}, {"stride": 2, "bias": False}, {"padding": "same"}])
def test_an_inverted_bottleneck_starts_as_the_cp_form_of_its_samples(changed):
    conv = seeded(nn.Conv2d, 6, 8, 3, **({"padding": 1} | changed)).double()
    program, x = double(conv, 4, 6, 7, 7)
    twin = built(entry("inverted_bottleneck", expansion=1.0), program, samples_of(program, x))
    summed = seeded(nn.Conv2d, 6, 8, 3, **({"padding": 1} | changed)).double()
    with tensorly.backend_context("pytorch"):
        found = tensorly.decomposition.parafac(
            conv.weight.detach().flatten(2), 6, n_iter_max=50, tol=1e-6, random_state=0
        )
        summed.weight.data = tensorly.cp_to_tensor(found).reshape(conv.weight.shape)
    assert 0.1 < error(program(x), twin(x)) <= error(program(x), summed(x)) < 1, "the last layer is refitted"
    twice = built(entry("inverted_bottleneck", expansion=2.0), program, samples_of(program, x))
    pixels = int(np.prod(program(x).shape[2:]))
    assert cost(twice).macs == 7 * 7 * 6 * 12 + pixels * (9 * 12 + 12 * 8)
    assert error(program(x), twice(x)) < 0.9 * error(program(x), twin(x))
    assert error(3 * twin(x), twin(3 * x)) > 1e-3  # and is not linear


def test_a_grouped_convolution_finds_the_blocks_of_a_shuffled_block_diagonal_weight():
    conv = seeded(nn.Conv2d, 8, 12, 3, padding=1).double()
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randperm(12, generator=generator), torch.randperm(8, generator=generator)
    mask = torch.block_diag(torch.ones(6, 4), torch.ones(6, 4))[rows][:, columns]
    conv.weight.data *= mask[..., None, None]
    program, x = double(conv, 3, 8, 5, 5)
    for samples in (None, samples_of(program, x)):
        twin = built(entry("grouped_shuffle", groups=2), program, samples)
        assert error(program(x), twin(x)) < 1e-10
    assert cost(twin).macs == cost(program).macs // 2


def test_co_clustering_keeps_at_least_what_the_best_of_all_groupings_of_few_channels_keeps():
    squares = np.random.default_rng(0).random((4, 4)) ** 4
    rows, columns = co_cluster(squares, 2)
    kept = squares[rows][:, columns]
    found = kept[:2, :2].sum() + kept[2:, 2:].sum()
    pairs = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    every = [
        sum(squares[np.ix_(a, b)].sum() for a, b in zip(r, c, strict=True))
        for r in pairs
        for p in pairs
        for c in (p, p[::-1])
    ]
    assert found == pytest.approx(max(every))


def test_a_smaller_kernel_is_the_least_squares_solution_by_numpy():
    program, x = double(seeded(nn.Conv2d, 2, 3, 3, padding=1), 6, 2, 5, 5)
    want = program(x)
    twin = built(entry("smaller_kernel", size=1), program, samples_of(program, x))
    rows = np.pad(x.movedim(1, -1).reshape(-1, 2).numpy(), ((0, 0), (0, 1)), constant_values=1)
    solved, *_ = np.linalg.lstsq(rows, want.movedim(1, -1).reshape(-1, 3).numpy(), rcond=None)
    assert np.allclose(twin(x).movedim(1, -1).reshape(-1, 3).numpy(), rows @ solved, atol=1e-4)


def test_a_kernel_that_is_zero_at_its_border_gets_smaller_at_no_loss():
    conv = seeded(nn.Conv2d, 4, 4, 5, stride=2, padding=2).double()
    conv.weight.data[:, :, [0, 4]] = 0
    conv.weight.data[:, :, :, [0, 4]] = 0
    program, x = double(conv, 6, 4, 9, 9)
    assert error(program(x), built(entry("smaller_kernel", size=3), program, samples_of(program, x))(x)) < 1e-9


def test_a_gate_that_is_constant_is_its_mean():
    net = seeded(SqueezeExcite)
    net.down.weight.data.zero_()
    program, x = block(net, "gate", 2, 3, 6, 6)
    twin = built(entry("fixed_gate"), program, samples_of(program, x))
    assert error(program(x), twin(x)) < 1e-6
    assert cost(twin).macs == 0


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_attention_whose_scores_are_equal_is_the_mean_of_its_values(fused, packed):
    net = seeded(Attention, fused=fused, packed=packed)
    (net.qkv if packed else net.q).weight.data[:8].zero_()
    (net.qkv if packed else net.q).bias.data[:8].zero_()
    program, x = block(net, "attention", 2, 5, 8)
    twin = built(entry("average_attention"), program)
    assert error(program(x), twin(x)) < 1e-6
    assert cost(twin).macs < cost(program).macs


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_attention_that_reads_positions_alone_is_fixed(fused, packed):
    """Queries and keys of the last three channels, which are the same for all inputs: an error in the scale or the axis shows."""
    net = seeded(Attention, fused=fused, packed=packed)
    for layer in [net.qkv] if packed else [net.q, net.k]:
        layer.weight.data[:16, :5] = 0
        layer.weight.data[:16, 5:] *= 4
    program, x = block(net, "attention", 2, 5, 8)
    x[:, :, 5:] = x[0, :, 5:]
    twin = built(entry("fixed_attention"), program, samples_of(program, x))
    assert error(program(x), twin(x)) < 1e-5
    assert error(program(x), built(entry("average_attention"), program)(x)) > 1e-2
    assert cost(twin).macs < cost(program).macs


def test_fixed_attention_is_the_mean_of_the_weights_of_samples():
    net = seeded(Attention)
    program, x = block(net, "attention", 2, 5, 8)
    twin = built(entry("fixed_attention"), program, samples_of(program, x))
    q, k = (layer(x).view(7, 5, 2, 4).transpose(1, 2) for layer in (net.q, net.k))
    mean = torch.nn.functional.scaled_dot_product_attention(q, k, torch.eye(5).expand(7, 2, 5, 5)).mean(0)
    (stored,) = (t for t in twin.tensors().values() if t.shape == (2, 5, 5))
    assert torch.allclose(stored, mean, atol=1e-6)


def test_attention_loses_a_head_that_gives_nothing():
    net = seeded(Attention)
    net.out.weight.data[:, 4:] = 0
    program, x = block(net, "attention", 2, 5, 8)
    twin = built(entry("fewer_heads", share=0.5), program)
    assert error(program(x), twin(x)) < 1e-6


def test_an_mlp_loses_hidden_channels_that_give_nothing():
    net = seeded(nn.Sequential, nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
    net[2].weight.data[:, ::2] = 0
    program, x = block(net, "mlp", 2, 6)
    twin = built(entry("narrower", share=0.5), program, samples_of(program, x))
    assert error(program(x), twin(x)) < 1e-5
    assert cost(twin).macs == cost(program).macs // 2


def test_a_layer_norm_of_inputs_of_one_mean_and_variance_is_affine():
    program, x = block(seeded(nn.Sequential, nn.LayerNorm(6)), "norm", 2, 6)
    x = torch.nn.functional.layer_norm(x, (6,)) * 2 + 1
    twin = built(entry("affine_norm"), program, samples_of(program, x))
    assert error(program(x), twin(x)) < 1e-4


def test_a_branch_that_is_off_leaves_the_stream():
    program, x = block(seeded(Attention), "branch", 2, 5, 8)
    assert torch.equal(built(entry("off"), program)(x), x)


def test_a_cheaper_activation_stands_where_one_is_not_cheap():
    program, x = block(seeded(nn.Sequential, nn.Linear(6, 4), nn.SiLU()), "unit", 2, 6)
    twin = built(entry("relu_activation"), program)
    assert torch.equal(twin(x), torch.relu(torch.nn.functional.linear(x, *program.tensors().values())))
    relu, _ = block(seeded(nn.Sequential, nn.Linear(6, 4), nn.ReLU()), "unit", 2, 6)
    assert "clamps already" in entry("relu_activation").build(relu, None)


@pytest.mark.parametrize(
    ("name", "net", "reason"),
    [
        ("depthwise_pointwise", nn.Conv2d(4, 4, 3, groups=2), "in groups already"),
        ("grouped_shuffle", nn.Conv2d(4, 3, 3), "not in 2 groups of equal size"),
        ("smaller_kernel", nn.Conv2d(4, 4, 3), "needs samples"),
        ("low_rank_chain", nn.Conv2d(4, 4, 1), "form channel alone"),
        ("bottleneck", nn.Conv2d(4, 4, 3), "needs samples"),
        ("inverted_bottleneck", nn.Conv2d(4, 4, 3), "needs samples"),
        ("inverted_bottleneck", nn.Conv2d(4, 4, 1), "one pixel"),
        ("ghost", nn.Conv2d(4, 4, 1), "needs samples"),
        ("ghost", nn.Conv2d(4, 3, 1), "no multiple of 2"),
        ("ghost", nn.Linear(5, 4), "is no convolution"),
    ],
)
def test_an_entry_that_does_not_apply_says_why(name, net, reason):
    program = captured(net, 2, 4, 5, 5)
    before = program.fingerprint()
    assert reason in entry(name).build(program, None)
    assert program.fingerprint() == before
