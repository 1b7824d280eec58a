"""Low rank: the approximation against numpy's, the split against torch's own layers, rules of ranks, and bad input."""

import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, capture, load_program, save_program
from fxopt.errors import BudgetError, DataError, OptionError, PassError, UsageError
from fxopt.ir.cost import cost, macs_by_node
from fxopt.ir.printer import op_name
from fxopt.numerics.error_metrics import relative_error
from fxopt.testing import small_workload

pytestmark = pytest.mark.usefixtures("one_thread")

FORMS = ("channel", "spatial", "tucker", "train", "cp")


def run(program, text, **options):
    """The program behind the passes, without verification, and what they left alone."""
    outcome = Pipeline.parse(text).run(program, workload=small_workload(program), watchers=(), **options)
    return outcome.program, [str(skip) for step in outcome.steps for skip in step.skips]


def proved(program, text):
    return Pipeline.parse(text).run(program, workload=small_workload(program)).program


def layers(program):
    return [op_name(n) for n in program.graph.nodes if n.op == "call_function" and op_name(n) != "aten.relu"]


def captured(module, *shape, seed=0):
    return capture(module.eval(), (torch.randn(shape, generator=torch.Generator().manual_seed(seed)),))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 20, 3, stride=2), nn.ReLU()]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 30), nn.ReLU())
    model.append(nn.Linear(30, 6))
    return captured(model, 2, 12, 9, 9)


# ---- the lossy step ------------------------------------------------------------------------------------------------


def matrix_of(weight, form):
    """A convolution's weight as the matrix that the literature takes singular values of."""
    out, ins, high, wide = weight.shape
    if form == "channel":
        return weight.reshape(out, -1)
    return weight.transpose(1, 2, 3, 0).reshape(ins * high, wide * out)


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_truncation_is_the_nearest_weight_of_that_rank(form):
    torch.manual_seed(1)
    program = captured(nn.Conv2d(12, 16, 3), 1, 12, 6, 6)
    got, _ = run(program, f"truncate_rank(form='{form}', rank=5)")
    old, new = (matrix_of(p.tensors()["weight"].detach().double().numpy(), form) for p in (program, got))
    left, values, right = np.linalg.svd(old, full_matrices=False)
    np.testing.assert_allclose(new, left[:, :5] * values[:5] @ right[:5], atol=1e-6)
    assert layers(got) == layers(program)


def test_tucker_and_train_have_their_ranks_and_lose_no_more_than_the_bound():
    torch.manual_seed(1)
    program = captured(nn.Conv2d(12, 16, 3), 1, 12, 6, 6)
    old = program.tensors()["weight"].detach().double().numpy()
    for form, cuts in (("tucker", ((1, 2, 3, 0), (0, 1, 2, 3))), ("train", ((1, 2, 3, 0), (0, 1, 2, 3)))):
        got, _ = run(program, f"truncate_rank(form='{form}', rank=5)")
        new = got.tensors()["weight"].detach().double().numpy()
        bound = 0.0
        for order in cuts:
            unfolded = new.transpose(order).reshape(new.shape[order[0]], -1)
            assert np.linalg.matrix_rank(unfolded, tol=1e-5) == 5
        for unfolded in (old.transpose(1, 2, 3, 0).reshape(12, -1), old.reshape(16, -1), matrix_of(old, "spatial")):
            if form == "train" or len(unfolded) < 36:
                bound += (np.linalg.svd(unfolded, compute_uv=False)[5:] ** 2).sum()
        assert ((new - old) ** 2).sum() <= bound


def test_energy_takes_the_least_rank_that_keeps_it():
    torch.manual_seed(1)
    program = captured(nn.Linear(40, 50), 2, 40)
    got, _ = run(program, "truncate_rank(energy=0.6)")
    squares = np.linalg.svd(program.tensors()["weight"].detach().numpy(), compute_uv=False) ** 2
    rank = int(np.searchsorted(np.cumsum(squares) / squares.sum(), 0.6)) + 1
    assert np.linalg.matrix_rank(got.tensors()["weight"].detach().numpy(), tol=1e-5) == rank


def test_vbmf_finds_what_noise_hides():
    torch.manual_seed(1)
    layer = nn.Linear(60, 80)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(80, 7) @ torch.randn(7, 60) + 0.3 * torch.randn(80, 60))
    got = proved(captured(layer, 2, 60), "low_rank(vbmf=True)")
    assert got.tensors()["weight_0"].shape == (7, 60)


def test_data_awareness_is_the_best_regression_of_that_rank():
    """The oracle is reduced-rank regression: the outputs' own singular values say what a rank must lose."""
    torch.manual_seed(2)
    mixing = torch.randn(24, 24) * torch.logspace(0, -1.5, 24)
    inputs = torch.randn(512, 24) @ mixing.T
    program = capture(nn.Linear(24, 24, bias=False).eval(), (inputs[:2],))
    workload = _recorded(program, inputs)
    texts = ("truncate_rank(rank=6)", "truncate_rank(rank=6, data_aware=True, samples=512)")
    errors = []
    for text in texts:
        got = Pipeline.parse(text).run(program, workload=workload, watchers=()).program
        errors.append(float((got(inputs) - program(inputs)).square().sum()))
    best = float((torch.linalg.svdvals(program(inputs).double())[6:] ** 2).sum())
    assert best <= errors[1] < 1.05 * best < 0.7 * errors[0]


@pytest.mark.parametrize("form", FORMS)
def test_data_awareness_of_convolutions_loses_less_of_the_outputs(form):
    torch.manual_seed(2)
    mixing = torch.randn(16, 16) * torch.logspace(0, -2, 16)
    inputs = torch.einsum("ij,njhw->nihw", mixing, torch.randn(64, 16, 7, 7))
    program = capture(nn.Conv2d(16, 16, 3, bias=False).eval(), (inputs[:2],))
    workload, errors = _recorded(program, inputs), []
    for aware in (False, True):
        text = f"low_rank(form='{form}', ratio=0.6, data_aware={aware})"
        got = Pipeline.parse(text).run(program, workload=workload).program
        errors.append(float((got(inputs) - program(inputs)).square().sum()))
    assert errors[1] < 0.8 * errors[0]


def _recorded(program, inputs):
    import dataclasses

    from fxopt.workload import Workload

    @dataclasses.dataclass
    class Data:
        metric = "none"

        def batches(self, split, *, batch_size, seed=None):
            for part in inputs.split(batch_size):
                yield (part,), torch.zeros(len(part))

    return Workload(name="recorded", model=lambda: program.module, inputs=lambda: ((inputs[:2],), {}), data=Data())


# ---- the exact step ------------------------------------------------------------------------------------------------


class Case(nn.Module):
    """A layer whose weight is a sum of products of random factors, and nothing else."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


@st.composite
def convolutions(draw):
    """A convolution of one to three dims with a weight of low rank, made by einsum, and the number of its chain's layers."""
    dims, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    transposed = draw(st.booleans())
    kernel = tuple(draw(st.sampled_from([1, 2, 3])) for _ in range(dims))
    stride = tuple(draw(st.sampled_from([1, 2])) for _ in range(dims))
    dilation = tuple(draw(st.sampled_from([1, 2])) for _ in range(dims))
    padding = tuple(draw(st.sampled_from([0, 1])) for _ in range(dims))
    ins, outs = 9 * groups, 10 * groups
    options = {
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if transposed:
        options["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        layer = getattr(nn, f"ConvTranspose{dims}d")(ins, outs, kernel, **options)
    else:
        same = draw(st.booleans()) and stride == (1,) * dims
        options["padding"] = "same" if same else padding
        layer = getattr(nn, f"Conv{dims}d")(ins, outs, kernel, **options)
    torch.manual_seed(draw(st.integers(0, 99)))
    cut = draw(st.sampled_from(["in", "out", "both"]))
    with torch.no_grad():
        blocks = []
        for _ in range(groups):
            left = torch.randn(9, 2) if cut != "out" else torch.eye(9)
            right = torch.randn(2, 10) if cut != "in" else torch.eye(10)
            core = torch.randn(left.shape[1], *kernel, right.shape[0])
            block = torch.einsum("ir,r...s,so->i...o", left.double(), core.double(), right.double())
            blocks.append(block.movedim(-1, 1) if transposed else block.movedim(-1, 0).movedim(1, 1))
        layer.weight.copy_(torch.cat(blocks))
    return layer, ins, dims


@settings(max_examples=25)
@given(convolutions())
def test_a_convolution_of_low_rank_is_split_and_computes_the_same(case):
    layer, ins, dims = case
    layer = layer.eval()
    x = torch.randn(2, ins, *[7] * dims, generator=torch.Generator().manual_seed(0))
    program = capture(Case(layer), (x,))
    before = cost(program)
    small = Pipeline.parse("factorize").run(program).program
    after = cost(small)
    assume(after != before)
    assert after.macs < before.macs
    for size in (1, 3):
        x = torch.randn(size, ins, *[7] * dims)
        with torch.no_grad():
            want = layer.double()(x.double())
        layer.float()
        assert relative_error(want, small(x).double()) < 1e-5


@pytest.mark.parametrize(
    ("equation", "kinds"),
    [
        ("ir,rhwo->oihw", [(2, 16, 1, 1), (18, 2, 3, 3)]),
        ("ihr,rwo->oihw", [(2, 16, 3, 1), (18, 2, 1, 3)]),
        ("ihwr,ro->oihw", [(2, 16, 3, 3), (18, 2, 1, 1)]),
        ("ir,rhws,so->oihw", [(2, 16, 1, 1), (2, 2, 3, 3), (18, 2, 1, 1)]),
        ("ir,rhs,swt,to->oihw", [(2, 16, 1, 1), (2, 2, 3, 1), (2, 2, 1, 3), (18, 2, 1, 1)]),
    ],
)
def test_every_form_is_read_off_the_weight(equation, kinds):
    torch.manual_seed(0)
    sizes = {"i": 16, "o": 18, "h": 3, "w": 3} | dict.fromkeys("rst", 2)
    factors = [torch.randn([sizes[c] for c in term]) for term in equation.split("->")[0].split(",")]
    layer = nn.Conv2d(16, 18, 3)
    layer.weight = nn.Parameter(torch.einsum(equation, *factors))
    small = proved(captured(layer, 2, 16, 8, 8), "factorize")
    found = [tuple(small.tensors()[f"weight_{k}"].shape) for k in range(len(kinds))]
    macs = lambda shapes: sum(o * np.prod(rest) for o, *rest in shapes)  # noqa: E731
    assert macs(found) <= macs(kinds), "where another chain is cheaper, it is that"
    if equation != "ir,rhs,swt,to->oihw":
        assert found == kinds


@pytest.mark.parametrize("form", FORMS)
def test_low_rank_halves_every_layer_and_computes_what_was_truncated(net, form):
    truncated, skips = run(net, f"truncate_rank(form='{form}')")
    outcome = Pipeline.parse("factorize").run(truncated)
    small = outcome.program
    assert not skips
    assert cost(small).macs <= 0.5 * cost(net).macs
    x = torch.randn(5, 12, 9, 9)
    assert relative_error(truncated(x), small(x)) < 1e-4
    assert outcome.steps[0].findings.error < 1e-5
    both = proved(net, f"low_rank(form='{form}')")
    assert both.text() == small.text()


class Words(nn.Module):
    """An embedding whose weight scores the words at the end too."""

    def __init__(self):
        super().__init__()
        self.words, self.middle = nn.Embedding(40, 24), nn.Linear(24, 24)

    def forward(self, x):
        return F.linear(self.middle(self.words(x)).relu(), self.words.weight)


def test_a_tied_weight_is_split_once_for_all_that_read_it():
    torch.manual_seed(0)
    program = capture(Words().eval(), (torch.tensor([[1, 2, 3]]),))
    truncated, _ = run(program, "truncate_rank(rank=4, only=('words',))")
    small = proved(truncated, "factorize")
    assert layers(small) == ["aten.embedding", "aten.matmul", "aten.linear", "aten.linear", "aten.linear"]
    sizes = sorted(t.numel() for name, t in small.tensors().items() if "words" in name)
    assert sizes == [4 * 24, 4 * 40], "the factors are shared"
    ids = torch.tensor([[5, 39, 0]])
    assert relative_error(truncated(ids), small(ids)) < 1e-4


class Products(nn.Module):
    """Products of each kind with stored matrices of low rank, one of which a linear reads the other way round."""

    def __init__(self):
        super().__init__()
        low = lambda: nn.Parameter(torch.randn(20, 2) @ torch.randn(2, 20))  # noqa: E731
        self.a, self.b, self.c, self.bias = low(), low(), low(), nn.Parameter(torch.randn(20))

    def forward(self, x):
        y = torch.mm(torch.addmm(self.bias, x, self.a).relu(), self.b)
        return F.linear((y[None] @ self.c).relu(), self.c, self.bias), (x[0] @ self.b)


def test_products_of_every_kind_are_split_and_compute_the_same():
    torch.manual_seed(0)
    module = Products().eval()
    program = captured(module, 3, 20)
    small = proved(program, "factorize")
    assert sorted(tuple(t.shape) for t in small.tensors().values()) == [(2, 20)] * 3 + [(20,)] + [(20, 2)] * 3
    x = torch.randn(7, 20)
    with torch.no_grad():
        want = module.double()(x.double())
    for a, b in zip(want, small(x), strict=True):
        assert relative_error(a, b.double()) < 1e-5


def test_an_embedding_alone_gets_fewer_elements():
    torch.manual_seed(0)
    program = capture(nn.Embedding(40, 24).eval(), (torch.tensor([1, 2, 3]),))
    assert cost(proved(program, "low_rank")).parameters <= 480


def test_what_is_not_of_low_rank_is_left_with_the_reason(net):
    small, skips = run(net, "factorize")
    assert small.fingerprint() == net.fingerprint()
    assert len(skips) == 4
    assert all("its rank is full" in skip and "test_low_rank.py" not in skip.split(":")[0] for skip in skips)


def test_noise_that_is_no_rounding_and_weak_channels_are_kept():
    torch.manual_seed(0)
    layer = nn.Linear(30, 30)
    low = torch.randn(30, 3) @ torch.randn(3, 30)
    for noise, words in ((1e-4, "would not be smaller"), (1e-8, None)):
        layer.weight = nn.Parameter(low + noise * torch.randn(30, 30))
        _, skips = run(captured(layer, 2, 30), "factorize")
        assert (words in skips[0]) if words else not skips
    weak = low.clone()
    weak[4] = 1e-7 * torch.randn(30)  # an output of its own, far weaker than the rest
    layer.weight = nn.Parameter(weak)
    _, skips = run(captured(layer, 2, 30), "factorize")
    assert "weakest of its channels" in skips[0]


def test_a_rank_that_does_not_pay_is_left():
    layer = nn.Linear(10, 10)
    layer.weight = nn.Parameter(torch.randn(10, 8) @ torch.randn(8, 10))
    _, skips = run(captured(layer, 2, 10), "factorize")
    assert "ranks that it has, 8, would not be smaller" in skips[0]


# ---- CP ------------------------------------------------------------------------------------------------------------


def test_a_cp_form_is_four_layers_and_only_taken_while_it_fits(net, tmp_path):
    truncated, _ = run(net, "truncate_rank(form='cp', only=('0',))")
    small = proved(truncated, "factorize")
    shapes = [tuple(small.tensors()[f"0.weight_{k}"].shape) for k in range(4)]
    rank = shapes[0][0]
    assert rank > 16, "more terms than channels, which no matrix of the weight shows"
    assert shapes == [(rank, 12, 1, 1), (rank, 1, 3, 1), (rank, 1, 1, 3), (16, rank, 1, 1)]
    changed = truncated.copy()
    changed.set_tensor("0.weight", changed.tensors()["0.weight"] * 1.001)
    _, skips = run(changed, "factorize")
    assert any("no longer the CP form" in skip for skip in skips)
    save_program(truncated, tmp_path / "t.pt2")
    again, skips = run(load_program(tmp_path / "t.pt2"), "factorize")
    assert layers(again) == layers(net)


@pytest.mark.parametrize("failure", ["nan", "cancel", "singular"])
def test_a_cp_form_that_diverges_falls_back_to_tucker_and_says_so(net, failure, monkeypatch):
    import tensorly.decomposition

    def parafac(tensor, rank, **options):
        if failure == "singular":
            raise torch.linalg.LinAlgError("singular")
        factors = [torch.randn(n, rank, dtype=torch.float64) for n in tensor.shape]
        if failure == "nan":
            factors[0][0, 0] = torch.nan
        else:
            factors[0] *= 1e4
            for factor in factors:
                factor[:, 1] = factor[:, 0]
            factors[0][:, 1] *= -1
            for factor in factors:
                factor[:, 2:] = 0
        return torch.ones(rank, dtype=torch.float64), factors

    monkeypatch.setattr(tensorly.decomposition, "parafac", parafac)
    outcome = Pipeline.parse("low_rank(form='cp')").run(net)
    assert cost(outcome.program).macs <= 0.5 * cost(net).macs
    assert any("diverged: it got the Tucker form, rank" in str(skip) for skip in outcome.steps[0].skips)


# ---- budgets and options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["macs", "params"])
@pytest.mark.parametrize("form", ["spatial", "tucker"])
def test_a_budget_is_just_met_by_share_and_by_number(net, budget, form):
    whole = cost(net)
    total = whole.macs if budget == "macs" else whole.parameters
    by_share, _ = run(net, f"low_rank(form='{form}', {budget}=0.6)")
    by_number, _ = run(net, f"low_rank(form='{form}', {budget}={0.6 * total})")
    left = cost(by_share).macs if budget == "macs" else cost(by_share).parameters
    assert by_share.text() == by_number.text()
    assert 0.5 * total < left <= 0.6 * total


def test_a_budget_loses_hardly_more_than_the_best_of_all_choices():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 12)).eval()
    with torch.no_grad():
        for k, decay in ((0, 0.8), (2, 1.5), (4, 3.0)):
            u, s, v = torch.linalg.svd(model[k].weight, full_matrices=False)
            model[k].weight.copy_(u * s * torch.exp(-decay * torch.arange(len(s)) / 10) @ v)
    program = captured(model, 2, 16)
    names, spectra, lines = ("0.weight", "2.weight", "4.weight"), [], []
    for name in names:
        weight = program.tensors()[name].detach().double()
        squares = torch.linalg.svdvals(weight) ** 2
        spectra.append(squares / squares.sum())
        out, ins = weight.shape
        ranks = [r for r in range(1, len(squares)) if r * (out + ins) < out * ins]
        lines.append([(0.0, out * ins), *((float(spectra[-1][r:].sum()), r * (out + ins)) for r in ranks)])
    limit = 0.5 * sum(line[0][1] for line in lines)
    pick = [sum(loss for loss, _ in p) for p in itertools.product(*lines) if sum(size for _, size in p) <= limit]
    got, _ = run(program, "truncate_rank(macs=0.5)")
    lost = 0.0
    for name in names:
        old, new = (p.tensors()[name].detach().double() for p in (program, got))
        lost += float((old - new).square().sum() / old.square().sum())
    assert min(pick) - 1e-6 <= lost <= 1.1 * min(pick)


def test_a_budget_that_cannot_be_met_says_how_near_it_came(net):
    with pytest.raises(BudgetError, match=r"macs comes down to [\d,]+ of [\d,]+ .* the budget is"):
        run(net, "low_rank(macs=0.001)")
    with pytest.raises(BudgetError, match="left: "):
        run(net, "low_rank(params=0.001)")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ("rank=0", OptionError, ">= 1"),
        ("rank=500", OptionError, "not below the full rank of any weight; the largest is"),
        ("ratio=1.0", OptionError, "< 1"),
        ("ratio=0.0", OptionError, "> 0"),
        ("energy=1.5", OptionError, "<= 1"),
        ("rank=3, macs=0.5", OptionError, "give one of them"),
        ("form='cp', energy=0.9", OptionError, "give rank or ratio"),
        ("form='svd'", OptionError, "tucker"),
        ("keep=('zzz',)", OptionError, "zzz"),
        ("multiple=0", OptionError, ">= 1"),
    ],
)
def test_bad_options(net, options, error, words):
    with pytest.raises(error, match=words):
        run(net, f"low_rank({options})")


def test_a_fixed_rank_multiples_and_names(net):
    small, skips = run(net, "low_rank(form='channel', rank=7, multiple=4, keep=('0',))")
    assert small.tensors()["2.weight_0"].shape == (8, 16, 3, 3)
    assert "0.weight" in small.tensors()
    assert any("kept as it is by keep" in skip for skip in skips)
    assert any("with rank 7 it would not be smaller" in skip for skip in skips), "30 to 6 outputs"


def test_data_is_needed_and_missing(net):
    with pytest.raises(DataError, match="truncate_rank"):
        Pipeline.parse("truncate_rank(data_aware=True)").run(net, watchers=())


def test_weights_that_are_not_finite_are_named_and_never_split():
    layer = nn.Linear(8, 8)
    with torch.no_grad():
        layer.weight[1, 2] = torch.inf
    program = captured(layer, 2, 8)
    with pytest.raises(PassError, match="'weight' holds NaN or infinity"):
        run(program, "truncate_rank")
    assert "holds NaN or infinity" in run(program, "factorize")[1][0]


def test_what_cannot_be_split_says_why():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.square, self.narrow = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 8).bfloat16()

        def forward(self, x):
            y = self.a(x) @ self.square.T + self.b.weight[0]
            return self.narrow(self.b(y).bfloat16()).float() + x @ (x.T @ x)

    _, skips = run(captured(Odd(), 3, 8), "truncate_rank")
    text = "\n".join(skips)
    for words in ("rearranged by", "reads its weight too, and is no layer", "bfloat16", "it has no stored weight"):
        assert words in text, words


def test_tensorly_is_asked_for_only_where_it_is_needed(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorly", None)
    run(net, "factorize")  # nothing to split
    with pytest.raises(UsageError, match=r"fxopt\[lowrank\]"):
        run(net, "low_rank")


# ---- with other passes ---------------------------------------------------------------------------------------------


def test_a_pair_is_pruned_trained_and_quantized(net):
    small = proved(net, "low_rank(form='channel'), prune_channels(ratio=0.5)")
    rank = proved(net, "low_rank(form='channel')").tensors()["2.weight_0"].shape[0]
    assert small.tensors()["2.weight_0"].shape[0] == (rank + 1) // 2, "the rank is pruned like any channels"
    trained, _ = run(small, "finetune(epochs=1)")
    assert layers(trained) == layers(small)
    assert any("dequantize" in op for op in layers(run(trained, "quantize")[0]))


def test_after_quantization_it_is_refused_with_the_reason(net):
    for text in ("quantize, factorize", "quantize_weights, low_rank"):
        with pytest.raises(PassError, match="decompose first, quantize after all other passes"):
            run(net, text)


def test_the_most_expensive_layers_are_those_that_shrink(net):
    small, _ = run(net, "low_rank(form='tucker', macs=0.4)")
    before = max(macs_by_node(net).values())
    assert max(macs_by_node(small).values()) < before


# ---- the form and budgets that are measured ------------------------------------------------------------------------


def lost_of(program, got, name):
    old, new = (p.tensors()[name].detach().double() for p in (program, got))
    return float((old - new).square().sum() / old.square().sum())


def test_auto_takes_for_each_layer_the_form_that_loses_least_for_its_size():
    torch.manual_seed(0)
    flat, tall = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    noise = 0.05
    with torch.no_grad():
        flat.weight.copy_(torch.einsum("ihr,rwo->oihw", torch.randn(16, 3, 3), torch.randn(3, 3, 16)))
        tall.weight.copy_(
            torch.einsum("ir,rhws,so->oihw", torch.randn(16, 4), torch.randn(4, 3, 3, 4), torch.randn(4, 16))
        )
        for layer in (flat, tall):
            layer.weight += noise * layer.weight.std() * torch.randn_like(layer.weight)
    program = captured(nn.Sequential(flat, nn.ReLU(), tall), 2, 16, 8, 8)
    small = proved(program, "low_rank(ratio=0.85)")
    assert tuple(small.tensors()["0.weight_0"].shape[2:]) == (3, 1)
    assert "2.weight_2" in small.tensors(), "1x1, 3x3, 1x1"
    auto, _ = run(program, "truncate_rank(ratio=0.85)")
    for form in ("channel", "spatial", "tucker", "train"):
        other, _ = run(program, f"truncate_rank(form='{form}', ratio=0.85)")
        for name in ("0.weight", "2.weight"):
            assert lost_of(program, auto, name) <= 1.05 * lost_of(program, other, name)


class Clock:
    """Stands for timing: a program takes so long for each layer, and for each element of its weights."""

    def __init__(self, layer, element):
        self.layer, self.element, self.asked = layer, element, []

    def __call__(self, programs, context, who, **options):
        from fxopt.runtime.timing import Timing

        self.asked.append(len(programs))
        return {name: Timing((self.ms(program),) * 3) for name, program in programs.items()}

    def ms(self, program):
        weights = [t.numel() for t in program.tensors().values() if t.dim() > 1]
        return self.layer * len(weights) + self.element * sum(weights)


@pytest.fixture
def clock(monkeypatch):
    def use(layer, element):
        from fxopt.passes.common import latency_budget
        from fxopt.passes.lowrank import layer_latency

        made = Clock(layer, element)
        for module in (layer_latency, latency_budget):
            monkeypatch.setattr(module, "built_times", made)
        return made

    return use


def test_a_layer_that_is_smaller_and_not_faster_is_left_with_the_reason(net, clock):
    """A layer costs as much as 1000 elements: the small layers can be split, but not with a gain."""
    made = clock(1.0, 1e-3)
    small, skips = run(net, "low_rank(latency='0.85x')")
    assert made.ms(small) <= 0.85 * made.ms(net)
    assert {"4.weight", "6.weight"} & {*net.tensors()} <= {*small.tensors()}
    slow = [skip for skip in skips if "it would not be clearly faster: at best" in skip]
    assert len(slow) == 2
    assert all("linear" in skip and "times as long as the whole layer" in skip for skip in slow)
    assert cost(run(net, "low_rank(macs=0.5)")[0]).macs < cost(net).macs


def test_a_latency_that_cannot_be_met_and_one_that_cannot_be_measured(net, clock):
    with pytest.raises(UsageError, match="truncate_rank: latency is measured on a built model"):
        run(net, "low_rank(latency='0.9x')")
    clock(1.5, 1e-3)
    with pytest.raises(BudgetError, match=r"comes down to 0\.\d+ of the whole .* the budget is 0\.1"):
        run(net, "low_rank(latency='0.1x')")


def test_no_more_goes_than_the_latency_asks_for(net, clock):
    made = clock(0.1, 1e-3)
    shares = []
    for limit in (0.9, 0.7, 0.5):
        small, _ = run(net, f"low_rank(latency='{limit}x')")
        shares.append(made.ms(small) / made.ms(net))
        assert limit - 0.25 < shares[-1] <= limit
    assert shares == sorted(shares, reverse=True)


def test_latency_counts_what_is_lost_at_the_outputs_too(net, clock):
    made = clock(0.1, 1e-3)
    plain, _ = run(net, "low_rank(latency='0.7x')")
    told, _ = run(net, "low_rank(latency='0.7x', by='outputs')")
    data = small_workload(net).data
    assert made.ms(told) <= 0.7 * made.ms(net)
    assert data.evaluate(told, "validation") >= 0.99 * data.evaluate(plain, "validation")


def test_layers_that_are_alike_are_timed_once(clock):
    torch.manual_seed(0)
    made = clock(0.1, 1e-3)
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(5)]
    run(captured(nn.Sequential(*blocks), 1, 8, 6, 6), "low_rank(latency='0.8x')")
    assert sum(count > 2 for count in made.asked) == 1


def test_a_layer_alone_has_fixed_shapes_and_the_chain_that_would_be_there(net, tmp_path):
    """So that ONNX Runtime times what it would run: each is built, and the whole layer gives what torch gives."""
    from fxopt.backend import find_backend
    from fxopt.driver.lower import lower
    from fxopt.passes.lowrank.chain import Chain
    from fxopt.passes.lowrank.find_weights import find_weights
    from fxopt.passes.lowrank.layer_alone import layer_alone, shapes_of_one, split
    from fxopt.target.detect import host

    shape = shapes_of_one(net)
    for i, weight in enumerate(find_weights(net)):
        alone = layer_alone(net, weight, shape)
        (x,) = alone.inputs()
        assert tuple(x.meta["val"].shape) == shape(weight.readers[0].args[0])
        assert x.meta["val"].shape[0] == 1
        given = torch.randn(tuple(x.meta["val"].shape))
        bias = net.tensors()[weight.names[0].replace("weight", "bias")]
        layer = F.linear if weight.kind == "matrix" else F.conv2d
        options = {} if weight.kind == "matrix" else {"padding": 1 if i == 0 else 0, "stride": 1 if i == 0 else 2}
        torch.testing.assert_close(alone(given), layer(given, weight.tensor, bias, **options).detach())
        chain = split(alone, {"w0": Chain((1,), (2,))})
        assert len(layers(chain)) == 2
        place = tmp_path / str(i)
        place.mkdir()
        _, built = lower(chain, find_backend("onnx(threads=1)"), host(), place)
        assert built(given.numpy()).shape == alone(given).shape


@pytest.mark.slow
def test_a_build_is_really_timed(net):
    """On a linear of 700 by 700, which takes most of the time, one chain is far below half: any machine sees that."""
    from fxopt.backend import find_backend

    torch.manual_seed(0)
    program = captured(nn.Sequential(nn.Linear(8, 700), nn.ReLU(), nn.Linear(700, 700), nn.ReLU()), 1, 8)
    small, skips = run(program, "low_rank(latency='0.9x', form='channel', only=('2',))", backend=find_backend("eager"))
    assert "2.weight_0" in small.tensors(), skips
    assert small.tensors()["2.weight_0"].shape[0] < 350


def test_metric_drop_is_held_and_used(net):
    data, left = small_workload(net).data, []
    for drop in (0.0, 0.002, 0.02):
        small, _ = run(net, f"low_rank(metric_drop={drop})")
        assert data.evaluate(net, "validation") - data.evaluate(small, "validation") <= drop + 1e-6
        left.append(cost(small).macs / cost(net).macs)
    assert left == sorted(left, reverse=True)
    assert left[2] < left[0]
    assert left[2] < 0.8


def test_errors_at_the_outputs_know_a_layer_that_does_not_count():
    """The two layers are alike but for what comes of them: what the second adds is a thousandth."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.loud, self.quiet = nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, x):
            return self.loud(x) + 1e-3 * self.quiet(x)

    program = captured(Net(), 4, 24)
    even, _ = run(program, "low_rank(macs=0.7)")
    told, _ = run(program, "low_rank(macs=0.7, by='outputs')")
    assert {"loud.weight", "quiet.weight"}.isdisjoint(even.tensors())
    assert "loud.weight" in told.tensors()
    assert cost(told).macs <= 0.7 * cost(program).macs


# ---- in recipes with other passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "fold_batch_norm, prune_channels(ratio=0.3), low_rank(ratio=0.4), quantize",
        "fold_batch_norm, low_rank(ratio=0.4), prune_channels(ratio=0.3), quantize",
    ],
)
def test_pruned_split_and_quantized_layers_run_as_integers(tmp_path, text):
    """Every layer of every chain has an integer kernel in ONNX Runtime, and the numbers are the program's."""
    from fxopt.backend import find_backend
    from fxopt.driver.lower import lower
    from fxopt.target.detect import host

    torch.manual_seed(0)
    convolutions = [
        nn.Conv2d(12, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, stride=2),
    ]
    model = nn.Sequential(*convolutions, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 40))
    program = captured(model, 2, 12, 9, 9)
    backend = find_backend("onnx(threads=1)")
    outcome = Pipeline.parse(text).run(program, workload=small_workload(program), backend=backend)
    small = outcome.program
    chains = [name for name in small.tensors() if "weight_" in name and name.endswith("_int8")]
    assert len(chains) >= 5
    _, built = lower(small, backend, host(), tmp_path, workload=small_workload(program))
    assert built.manifest.facts["float_contractions"] == 0, built.manifest.facts
    x = torch.randn(1, 12, 9, 9)
    want, got = program(x), torch.from_numpy(built(x.numpy()))
    assert relative_error(small(x), got) < 0.05
    assert want.shape == got.shape
