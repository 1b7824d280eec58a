"""Depth pruning: which branches are found, what zeroes them, which are chosen, and what is left, against eager models."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, Workload, capture
from fxopt.errors import BudgetError, DataError, OptionError
from fxopt.ir.cost import cost, macs_by_node
from fxopt.ir.parser import canonical_text, parse_program
from fxopt.passes.prune.depth.branch_weights import zero_sites, zeroing_sites
from fxopt.passes.prune.depth.residual import find_residuals
from fxopt.passes.prune.known.values import known_values
from fxopt.workload import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- models with blocks that torch.nn.Identity can stand for ----------------------------------------------------


class Conv(nn.Module):
    """relu(x + f(x)): of x behind another relu, without f, it is x."""

    def __init__(self, width=6, inner=6):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
            nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.body(x)
        y += x
        return self.relu(y)


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 2, padding=1), nn.BatchNorm2d(width))
        self.skip = nn.Conv2d(width, width, 1, 2)

    def forward(self, x):
        return F.relu(self.body(x) + self.skip(x))


class Heads(nn.Module):
    """nn.MultiheadAttention, but for its fast path, which rounds in another way."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class Attention(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), Heads(width))

    def forward(self, x):
        return x + self.body(x)


class Mlp(nn.Module):
    def __init__(self, width=16, inner=32):
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, inner),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(inner, width),
            nn.Dropout(0.1),
        )

    def forward(self, x):
        return x + self.body(x)


def _resnet():
    blocks = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), Conv(), Conv(), Down(6), Conv(), Conv())
    return nn.Sequential(blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)), torch.randn(2, 3, 16, 16)


def _transformer():
    blocks = nn.Sequential(nn.Linear(5, 16), Attention(), Mlp(), Attention(), Mlp())
    return nn.Sequential(blocks, nn.LayerNorm(16), nn.Flatten(), nn.Linear(16 * 7, 5)), torch.randn(2, 7, 5)


def _random(model):
    """A double-precision model in evaluation mode; the branches differ in size, and no weight is what it was made as."""
    with torch.no_grad():
        for i, (name, tensor) in enumerate(model.state_dict().items()):
            if tensor.is_floating_point():
                nn.init.normal_(tensor, 0.0, 0.2 + 0.05 * (i % 7))
            if "running_var" in name:
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.double().eval()


def _made(make):
    torch.manual_seed(0)
    model, x = make()
    return _random(model), x.double()


BLOCKS = {_resnet: (Conv,), _transformer: (Attention, Mlp)}


def _blocks(make, model):
    """The places of the blocks that may go."""
    return [i for i, block in enumerate(model[0]) if isinstance(block, BLOCKS[make])]


def _without(model, gone, instead=nn.Identity):
    smaller = copy.deepcopy(model)
    for i in gone:
        smaller[0][i] = instead()
    return smaller.eval()


def _gone(program, before):
    """The places of the blocks of which nothing is left; none may be left in parts."""
    place = lambda names: {int(name.split(".")[1]) for name in names if name.startswith("0.")}  # noqa: E731
    gone = place(before.tensors()) - place(program.tensors())
    left = {name for name in before.tensors() if not name.startswith("0.") or int(name.split(".")[1]) not in gone}
    assert set(program.tensors()) == left
    return sorted(gone)


class Labels:
    """Random examples; the loss is cross entropy."""

    metric = "nothing"

    def __init__(self, x):
        self._generator = torch.Generator().manual_seed(3)
        self._x = torch.randn(48, *x.shape[1:], generator=self._generator, dtype=x.dtype)
        self._y = torch.randint(5, (48,), generator=self._generator)

    def batches(self, split, *, batch_size, seed=None):
        order = torch.arange(48) if seed is None else torch.randperm(48, generator=torch.Generator().manual_seed(seed))
        for part in order.split(batch_size):
            yield (self._x[part],), self._y[part]

    def loss(self, output, target):
        return F.cross_entropy(output, target)


def _workload(model, x):
    return Workload(name="labels", model=lambda: model, inputs=lambda: ((x,), {}), data=Labels(x))


@pytest.mark.parametrize("make", BLOCKS)
@pytest.mark.parametrize(
    "options", ["ratio=0.25, by='random', seed=1", "ratio=0.5", "ratio=0.8, by='magnitude'", "macs=0.6"]
)
def test_a_pruned_program_is_the_model_with_identities_for_the_blocks(make, options):
    model, x = _made(make)
    before = capture(model, (x,))
    outcome = Pipeline.parse(f"prune_layers({options})").run(before)
    gone = _gone(outcome.program, before)
    assert gone
    assert set(gone) <= set(_blocks(make, model))
    if "ratio" in options:
        assert len(gone) == math.floor(float(options[6:10].rstrip(",")) * len(_blocks(make, model)))
    torch.manual_seed(5)
    x = torch.randn(5, *x.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(outcome.program(x), _without(model, gone)(x))
    # the same program that capturing the smaller model gives; what stays of a block of the ResNet is its relu
    instead = nn.ReLU if make is _resnet else nn.Identity
    assert canonical_text(outcome.program) == canonical_text(capture(_without(model, gone, instead), (x[:2],)))


# ---- importance, against eager --------------------------------------------------------------------------------------


def _least(scores, count):
    return sorted(sorted(scores, key=scores.get)[:count])


@pytest.mark.parametrize("make", BLOCKS)
def test_by_loss_takes_those_whose_absence_costs_least(make):
    model, x = _made(make)
    data = Labels(x)
    with torch.no_grad():
        batches = list(data.batches("train", batch_size=32, seed=0))
        losses = lambda smaller: sum(F.cross_entropy(smaller(*args), y).item() for args, y in batches)  # noqa: E731
        scores = {i: losses(_without(model, [i])) for i in _blocks(make, model)}
    before = capture(model, (x,))
    for ratio, count in ((0.25, 1), (0.5, 2), (0.75, 3)):
        text = f"prune_layers(ratio={ratio}, by='loss', samples=48)"
        after = Pipeline.parse(text).run(before, workload=_workload(model, x)).program
        assert _gone(after, before) == _least(scores, count)


@pytest.mark.parametrize("make", BLOCKS)
def test_by_taylor_is_the_slope_by_a_gate_on_the_branch(make):
    model, x = _made(make)
    data = Labels(x)
    slopes = {}
    for i in _blocks(make, model):
        gated = copy.deepcopy(model)
        gate = torch.ones((), dtype=torch.float64, requires_grad=True)
        gated[0][i].body.register_forward_hook(lambda _module, _args, out, gate=gate: out * gate)
        ((args, y),) = data.batches("train", batch_size=48, seed=0)
        slopes[i] = abs(torch.autograd.grad(F.cross_entropy(gated(*args), y), gate)[0].item())
    before = capture(model, (x,))
    text = "prune_layers(ratio=0.5, by='taylor', samples=48)"
    after = Pipeline.parse(text).run(before, workload=_workload(model, x)).program
    assert _gone(after, before) == _least(slopes, 2)


@pytest.mark.parametrize("make", BLOCKS)
def test_by_similarity_is_one_minus_the_cosine_of_the_features(make):
    model, x = _made(make)
    scores = {}

    def see(module, args, out):
        (stream,) = args
        if isinstance(module, Conv):  # before the relu
            scores[place[module]] = (1 - F.cosine_similarity(stream, module.body(stream) + stream, dim=1)).mean().item()
        else:
            scores[place[module]] = (1 - F.cosine_similarity(stream, out, dim=-1)).mean().item()

    place = {model[0][i]: i for i in _blocks(make, model)}
    before = capture(model, (x,))
    handles = [block.register_forward_hook(see) for block in place]
    ((args, _),) = Labels(x).batches("train", batch_size=48)
    with torch.no_grad():
        model(*args)
    for handle in handles:
        handle.remove()
    text = "prune_layers(ratio=0.5, samples=48)"
    after = Pipeline.parse(text).run(before, workload=_workload(model, x)).program
    assert _gone(after, before) == _least(scores, 2)


def test_random_follows_the_seed_and_similarity_without_data_takes_the_example():
    model, x = _made(_transformer)
    before = capture(model, (x,))
    drawn = {tuple(_gone(_pruned(f"ratio=0.5, by='random', seed={seed}", before), before)) for seed in range(8)}
    assert len(drawn) > 2
    tiny = copy.deepcopy(model)
    with torch.no_grad():
        tiny[0][3].body[1].out.weight *= 1e-9
        tiny[0][3].body[1].out.bias *= 1e-9
    before = capture(tiny, (x,))
    assert _gone(_pruned("ratio=0.25", before), before) == [3]


# ---- how much ---------------------------------------------------------------------------------------------------------


def _pruned(options, program, workload=None):
    return Pipeline.parse(f"prune_layers({options})").run(program, watchers=(), workload=workload).program


@pytest.mark.parametrize("make", BLOCKS)
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_a_budget_of_macs_is_met_and_no_block_more_than_needed_goes(make, share):
    model, x = _made(make)
    before = capture(model, (x,))
    dense = cost(before).macs
    after = _pruned(f"macs={share}, by='magnitude'", before)
    assert cost(after).macs <= share * dense
    assert cost(_pruned(f"macs={share * dense}, by='magnitude'", before)).macs == cost(after).macs
    gone = _gone(after, before)
    for i in gone:  # each of them is needed
        rest = capture(_without(model, [j for j in gone if j != i]), (x,))
        assert cost(rest).macs > share * dense


def test_a_budget_that_cannot_be_met_says_how_near_it_came():
    model, x = _made(_resnet)
    before = capture(model, (x,))
    least = cost(capture(_without(model, _blocks(_resnet, model)), (x,))).macs
    with pytest.raises(BudgetError, match=rf"macs comes down to {least:,} of (?s:.*)%conv2d"):
        _pruned("macs=0.01", before)


def test_of_less_than_one_branch_none_goes_and_that_is_said():
    model, x = _made(_resnet)
    before = capture(model, (x,))
    (step,) = Pipeline.parse("zero_layers(ratio=0.2)").run(before).steps
    assert not step.changed
    assert step.skips[-1].reason == "ratio 0.2 of 4 residual branches is less than one; from 0.25 on one goes"
    assert not Pipeline.parse("zero_layers(ratio=0)").run(before).steps[0].changed
    few = capture(_random(nn.Sequential(nn.Linear(5, 16), Mlp(), Mlp())), (x.new_zeros(2, 5),))
    (step,) = Pipeline.parse("zero_layers").run(few).steps
    assert not step.changed
    assert "ratio 0.25 of 2 residual branches is less than one" in step.skips[-1].reason


def test_keep_names_weights_and_modules():
    model, x = _made(_transformer)
    before = capture(model, (x,))
    (gone,) = _gone(_pruned("ratio=0.5, keep=('0.1', '0.4.body.*')", before), before)  # of two
    assert gone in (2, 3)
    assert _gone(_pruned("macs=0.99, keep=('0.[123]',)", before), before) == [4]
    with pytest.raises(OptionError, match="no weight or module is called 'atention'"):
        _pruned("keep=('atention',)", before)


@pytest.mark.parametrize(
    "options", ["ratio=1.0", "ratio=-0.1", "macs=0.0", "ratio=0.5, macs=0.5", "by='l2'", "samples=0"]
)
def test_options_out_of_range(options):
    model, x = _made(_transformer)
    with pytest.raises(OptionError):
        _pruned(options, capture(model, (x,)))


@pytest.mark.parametrize("by", ["taylor", "loss"])
def test_what_needs_data_says_so(by):
    model, x = _made(_transformer)
    before = capture(model, (x,))
    bare = Workload(name="bare", model=lambda: model, inputs=lambda: ((x,), {}))
    for workload in (None, bare):
        with pytest.raises(DataError, match=f"zero_layers\\(by='{by}'\\) needs"):
            _pruned(f"ratio=0.5, by='{by}'", before, workload)


# ---- what a branch is ---------------------------------------------------------------------------------------------------

HEAD = """
%x : f32[batch,4]
%a = param "a.weight" : f32[4,4]
%b = param "b.weight" : f32[4,4]
%c = param "c.weight" : f32[4,4]
%s = aten.tanh(%x)
"""


def _found(text):
    """Names of sums with those of the stream and the branch; what is nearly a branch, or cannot be zeroed, with the reason."""
    program = parse_program(HEAD + text)
    found = find_residuals(program)
    reasons = {node.name: reason for node, reason in found.others}
    good = []
    for branch in found.branches:
        sites = zeroing_sites(program, branch)
        if isinstance(sites, str):
            reasons[branch.total.name] = sites
        else:
            weights = sorted({str(weight.target) for _, weight in sites})
            good.append((branch.total.name, branch.stream.name, branch.end.name, *weights))
    return good, reasons


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("%f = aten.linear(%s, %a); %y = aten.add.Tensor(%s, %f)", ("s", "f", "a.weight")),
        ("%f = aten.linear(%s, %a); %y = aten.add.Tensor(%f, %s)", ("s", "f", "a.weight")),
        ('%f = aten.linear(%s, %a); %r = param "r" : f32[]; %g = aten.mul.Tensor(%r, %f); %y = aten.add.Tensor(%s, %g)',
         ("s", "g", "r")),
        ("%f = aten.linear(%s, %a); %g = aten.relu(%f); %h = aten.sigmoid(%s); %m = aten.mul.Tensor(%g, %h); "
         "%y = aten.add.Tensor(%s, %m)", ("s", "m", "a.weight")),
        ("%f = aten.linear(%s, %a); %h = aten.sigmoid(%f); %g = aten.linear(%s, %b); %m = aten.mul.Tensor(%h, %g); "
         "%y = aten.add.Tensor(%s, %m)", ("s", "m", "b.weight")),
        ("%f = aten.linear(%s, %a); %g = aten.linear(%s, %b); %m = aten.add.Tensor(%f, %g); "
         "%y = aten.add.Tensor(%s, %m)", ("s", "m", "a.weight", "b.weight")),
        ("%f = aten.linear(%s, %a); %g = aten.linear(%f, %b); %m = aten.sub.Tensor(%f, %g); "
         "%y = aten.add.Tensor(%s, %m)", ("s", "m", "a.weight", "b.weight")),
        ("%t = aten.t(%a); %f = aten.matmul(%s, %t); %y = aten.add.Tensor(%s, %f)", ("s", "f", "a.weight")),
        ("%d = aten.clone(%s); %f = aten.linear(%s, %a); %y = aten.add.Tensor(%d, %f)", ("d", "f", "a.weight")),
        ("%f = aten.linear(%s, %a); %k = aten.split.Tensor(%f, 2, 1); %p = getitem(%k, 0); %q = getitem(%k, 1); "
         "%g = aten.cat([%q, %p], 1); %y = aten.add.Tensor(%s, %g)", ("s", "g", "a.weight")),
        ('%w = param "w" : f32[4]; %v = param "v" : f32[4]; %f = aten.linear(%s, %a); '
         "%g = aten.layer_norm(%f, [4], %w, %v); %y = aten.add.Tensor(%s, %g)", ("s", "g", "v", "w")),
        ("%n = aten.sym_size.int(%x, 0); %f = aten.linear(%s, %a); %g = aten.view(%f, [%n, 4]); "
         "%y = aten.add.Tensor(%s, %g)", ("s", "g", "a.weight")),
    ],
)  # fmt: skip
def test_the_weights_that_make_a_branch_zero(text, want):
    assert _found(text + "\nreturn %y") == ([("y", *want)], {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # a projection, as where a ResNet halves the size
        ("%f = aten.linear(%s, %a); %g = aten.linear(%s, %b); %y = aten.add.Tensor(%f, %g)", "neither operand is %s"),
        # cross attention: the branch depends on another stream
        ("%f = aten.linear(%s, %a); %g = aten.linear(%x, %b); %h = aten.mul.Tensor(%f, %g); %y = aten.add.Tensor(%s, %h)",
         "%h comes from %s, but from %g as well, around it"),
        ("%m = aten.mean.dim(%s, [1], True); %w = aten.expand(%m, [-1, 4]); %f = aten.linear(%w, %a); "
         "%v = aten.mean.dim(%f, [0], True); %y = aten.add.Tensor(%s, %v)", "becomes f32[batch,4] in the sum"),
        ("%f = aten.linear(%s, %a); %g = aten.sigmoid(%f); %y = aten.add.Tensor(%s, %g)",
         "no weight of the branch makes it zero after %g = aten.sigmoid(%f)"),
        ("%f = aten.linear(%s, %a); %g = aten.relu(%f); %z = aten.add.Tensor(%s, %g); %y = aten.mul.Tensor(%z, %f)",
         "also read outside the branch: %y = aten.mul"),
    ],
)  # fmt: skip
def test_what_is_nearly_a_branch_has_a_reason(text, reason):
    good, reasons = _found(text + "\nreturn %y")
    assert not good
    (got,) = reasons.values()
    assert reason in got


@pytest.mark.parametrize(
    "text",
    [
        "%f = aten.linear(%s, %a); %y = aten.add.Tensor(%s, %f, alpha=2)",
        "%f = aten.linear(%s, %a); %y = aten.mul.Tensor(%s, %f)",
        # GELU written out
        "%f = aten.linear(%s, %a); %p = aten.pow.Tensor_Scalar(%f, 3); %q = aten.mul.Tensor(%p, 0.044715); "
        "%r = aten.add.Tensor(%f, %q); %y = aten.tanh(%r)",
        # rotary positions
        "%f = aten.linear(%s, %a); %p = aten.mul.Tensor(%f, 0.5); %q = aten.neg(%f); %y = aten.add.Tensor(%p, %q)",
    ],
)
def test_other_sums_are_not_spoken_of(text):
    assert _found(text + "\nreturn %y") == ([], {})


def test_an_attention_mask_is_no_stream():
    text = (
        "%i : i64[batch,4]\n%e = aten.gt.Scalar(%i, 0); %k = aten.to.dtype(%e, f32); %f = aten.linear(%s, %a); "
        "%g = aten.mul.Tensor(%f, %k); %h = aten.linear(%g, %b); %y = aten.add.Tensor(%s, %h)\nreturn %y"
    )
    assert _found(text) == ([("y", "s", "h", "b.weight")], {})


UNET = """
%f = aten.linear(%s, %a); %u = aten.relu(%f)
%g = aten.linear(%u, %b); %v = aten.add.Tensor(%u, %g)
%h = aten.linear(%v, %c); %y = aten.add.Tensor(%s, %h)
return %y
"""


def test_an_outer_branch_takes_the_inner_one_along():
    good, _ = _found(UNET)
    assert good == [("v", "u", "g", "b.weight"), ("y", "s", "h", "c.weight")]
    program = parse_program(HEAD + UNET)
    short = HEAD.replace('%b = param "b.weight" : f32[4,4]\n', "") + UNET.replace("%g = aten.linear(%u, %b); ", "")
    inner = canonical_text(parse_program(short.replace("%v = aten.add.Tensor(%u, %g)", "").replace("%v", "%u")))
    with torch.no_grad():
        program.tensors()["c.weight"].mul_(1e-6)  # the outer one counts least, but is two of two
    assert canonical_text(_pruned("ratio=0.5", program)) == inner
    for options in ("macs=0.3", "ratio=0.9", "macs=0.3, by='magnitude'"):
        after = _pruned(options, program)
        count = len(list(after.find("aten.linear")))
        assert count == (2 if options.startswith("ratio") else 0)


def test_most_of_a_network_is_no_layer():
    text = UNET.replace("%v = aten.add.Tensor(%u, %g)", "%v = aten.neg(%g)").replace("return %y", "")
    text += '%d = param "d.weight" : f32[4,4]\n%k = aten.linear(%y, %d); %z = aten.add.Tensor(%y, %k)\nreturn %z\n'
    program = parse_program(HEAD + text)
    with torch.no_grad():
        program.tensors()["c.weight"].mul_(1e-6)
    outcome = Pipeline.parse("zero_layers(ratio=0.5)").run(program)
    assert [skip.reason for skip in outcome.steps[0].skips] == [
        "the branch holds 75% of the MACs; to drop it, give a budget: macs="
    ]
    assert len(list(_pruned("ratio=0.5", program).find("aten.linear"))) == 3
    assert len(list(_pruned("macs=0.5", program).find("aten.linear"))) == 1


def test_a_layer_that_runs_twice_loses_one_of_its_runs():
    torch.manual_seed(0)
    block = Mlp()
    model = _random(nn.Sequential(nn.Linear(5, 16), block, nn.GELU(), block, nn.Linear(16, 5)))
    x = torch.randn(3, 5, dtype=torch.float64)
    before = capture(model, (x,))
    names = set(before.tensors())
    one = [nn.Sequential(model[0], model[2], block, model[4]), nn.Sequential(model[0], block, model[2], model[4])]
    data = Labels(x)
    kept = capture(model, (x,)).fingerprint()
    after = _pruned("ratio=0.5, by='loss'", before, _workload(model, x))
    assert before.fingerprint() == kept
    assert set(after.tensors()) == names
    with torch.no_grad():
        losses = [sum(F.cross_entropy(m(*args), y) for args, y in data.batches("train", batch_size=32)) for m in one]
        assert losses[0] != losses[1]
        assert torch.equal(after(x), one[losses[1] < losses[0]](x))


def test_a_program_without_branches():
    program = capture(nn.Sequential(nn.Conv2d(3, 4, 3), Down(4)).eval(), (torch.randn(2, 3, 8, 8),))
    for options in ("", "(ratio=0.5)", "(macs=1.0)"):
        outcome = Pipeline.parse(f"prune_layers{options}").run(program)
        assert not any(step.changed for step in outcome.steps)
        assert "neither operand is %conv2d" in outcome.steps[0].skips[0].reason
    with pytest.raises(BudgetError, match="without any residual branch that may go"):
        _pruned("macs=0.5, by='taylor'", program)  # which needs no data where nothing is to be scored


def test_a_program_of_one_layer_is_left_and_that_is_said():
    (step, *_) = Pipeline.parse("prune_layers(ratio=0.5)").run(capture(nn.Linear(3, 3), (torch.randn(2, 3),))).steps
    assert [skip.reason for skip in step.skips] == ["the program has no residual branch that can go"]


# ---- real models ----------------------------------------------------------------------------------------------------------


def test_the_digits_with_one_of_six_blocks_less():
    workload = find_workload("digits")
    program = workload.capture()
    metric = workload.need_data("test").evaluate(program)
    outcome = Pipeline.parse("prune_layers(ratio=0.2, by='loss')").run(program, workload=workload)
    assert [step.kind for step in outcome.steps] == ["approx", "exact", "exact"]
    assert len(find_residuals(outcome.program).branches) == 5
    assert metric - 0.1 < workload.need_data("test").evaluate(outcome.program) <= 1
    assert cost(outcome.program).macs < 0.99 * cost(program).macs
    drawn = Pipeline.parse("prune_layers(ratio=0.2, by='random')").run(program, workload=workload).program
    assert workload.need_data("test").evaluate(drawn) <= workload.need_data("test").evaluate(outcome.program)


def _count(kind, **wanted):
    def count(model):
        blocks = [m for m in model.modules() if type(m).__name__ == kind]
        return sum(all(bool(getattr(m, name)) is value for name, value in wanted.items()) for m in blocks)

    return count


ZOO = {
    "torchvision:resnet50": _count("Bottleneck", downsample=False),
    "torchvision:vit_b_16": lambda model: 2 * _count("EncoderBlock")(model),
    "torchvision:swin_t": lambda model: 2 * _count("SwinTransformerBlock")(model),
    "torchvision:convnext_tiny": _count("CNBlock"),
    "torchvision:efficientnet_b0": _count("MBConv", use_res_connect=True),
    "torchvision:mobilenet_v2": _count("InvertedResidual", use_res_connect=True),
    "torchvision:regnet_y_400mf": _count("ResBottleneckBlock", proj=False),
    "transformers:bert": lambda model: 2 * _count("BertLayer")(model),
    "transformers:llama": lambda model: 2 * _count("LlamaDecoderLayer")(model),
    "transformers:gpt2": lambda model: 2 * _count("GPT2Block")(model),
    "transformers:mamba": _count("MambaBlock"),
}


QUICK = ("torchvision:mobilenet_v2", "transformers:bert", "transformers:llama", "transformers:mamba")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ZOO])
def test_every_block_of_a_real_model_is_found_and_zeroed_and_dropped(name):
    workload = find_workload(name)
    program = workload.capture()
    branches = find_residuals(program).branches
    assert len(branches) == ZOO[name](workload.model())
    sites = [zeroing_sites(program, branch) for branch in branches]
    assert not [reason for reason in sites if isinstance(reason, str)]
    macs = sum(macs_by_node(program).values())
    inside = sum(count for node, count in macs_by_node(program).items() if any(node in b.nodes for b in branches))
    zero_sites(program, [site for found in sites for site in found])
    known = known_values(program)
    assert all(branch.end in known and not known[branch.end].count_nonzero() for branch in branches)
    after = Pipeline.parse("drop_zero_branches").run(program, watchers=()).program
    assert not find_residuals(after).branches
    assert cost(after).macs == macs - inside


def test_folded_batch_norms_are_zeroed_in_the_convolution():
    model, x = _made(_resnet)
    folded = Pipeline.parse("fold_batch_norm").run(capture(model, (x,))).program
    after = _pruned("ratio=0.75", folded)
    assert isinstance(after, Program)
    assert len(list(after.find("aten.conv2d"))) == len(list(folded.find("aten.conv2d"))) - 6
