"""Quantization-aware training: what is trained is bit for bit what is written, and it is better than rounding alone."""

import math

import pytest
import torch
from cases.training import Blobs, Net, Plain, run, workload
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Workload, capture
from fxopt.errors import DataError, PassError
from fxopt.ir.printer import op_name
from fxopt.passes.quant import train_quantized as module
from fxopt.passes.quant.aware.fake_quantize import fake_quantize
from fxopt.target import find_target

pytestmark = pytest.mark.usefixtures("one_thread")


class Mixed(nn.Module):
    """Convolutions with a residual, a pool, a layer that is called twice, one without bias, and a linear head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm, self.d = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        x = x + F.relu(self.b(self.d(x)))
        x = F.max_pool2d(F.relu(self.b(x)), 2)
        return self.head(x.mean((2, 3)))


class Images(Blobs):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shapes = torch.randn(4, 3, 8, 8, generator=generator)
        self.points = shapes[self.labels] + torch.randn(240, 3, 8, 8, generator=generator)


def images():
    inputs = lambda: ((torch.zeros(2, 3, 8, 8),), {})  # noqa: E731
    return Workload(name="images", model=lambda: Mixed().eval(), inputs=inputs, data=Images())


def kinds(program):
    return [op_name(n) if n.op == "call_function" else n.op for n in program.graph.nodes]


@pytest.fixture
def simulated(monkeypatch):
    """The simulations, as they were when training began and when it ended."""
    seen = []
    train = module.train

    def spy(program, *rest):
        seen.append(program.copy())
        train(program, *rest)
        seen.append(program.copy())

    monkeypatch.setattr(module, "train", spy)
    return seen


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_trained_is_bit_for_bit_what_is_written(simulated, bits):
    given = images()
    passes = f"train_quantized(epochs=2, rate=0.01, batch_size=32, weight_bits={bits})"
    vnni = find_target("x86_64_vnni")  # where no pair of weights is bounded behind the training
    outcome = Pipeline.parse(passes).run(given.capture(), workload=given, target=vnni)
    before, after = simulated
    x = given.data.points[160:]
    assert torch.equal(after(x), outcome.program(x))
    assert not torch.equal(before(x), after(x)), "it was trained"
    for name in ("a.weight", "head.bias", "a.weight_log_scale"):
        assert not torch.equal(before.tensors()[name], after.tensors()[name]), name
    largest = max(int(t.abs().max()) for n, t in outcome.program.tensors().items() if n.endswith("_int8"))
    assert largest == {8: 127, 4: 7}[bits]


def test_it_begins_where_quantize_ends_and_writes_the_same_graph(simulated):
    given = images()
    rounded = run("quantize(correct_bias='none')", given).program
    trained = run("train_quantized(epochs=1, rate=0.01, batch_size=32)", given).program
    x = given.data.points[160:]
    assert torch.allclose(simulated[0](x), rounded(x), atol=1e-5), (
        "but for the last bit of a step that is exp(log(step))"
    )
    assert kinds(trained) == kinds(rounded)
    assert trained.tensors().keys() == rounded.tensors().keys()


def test_four_bits_are_won_back():
    given = images()
    good = run("finetune(epochs=20, rate=0.01, batch_size=32)", given).program
    first, last = [], []
    train = module.train
    loss = lambda p: float(given.data.loss(p(given.data.points[160:]), given.data.labels[160:]))  # noqa: E731

    def spy(program, *rest):
        first.append(loss(program))
        train(program, *rest)
        last.append(loss(program))

    module.train = spy
    try:
        passes = "train_quantized(epochs=6, rate=0.005, batch_size=32, weight_bits=4)"
        outcome = run(passes, given, good)
    finally:
        module.train = train
    assert last[0] < first[0]
    assert given.data.evaluate(outcome.program, "validation") >= given.data.evaluate(good, "validation") - 0.03


@pytest.mark.parametrize(("zero", "low", "high", "channels"), [(0, 0, 255, 0), (117, 0, 255, 0), (0, -7, 7, 5)])
def test_the_gradients_are_those_of_the_paper(zero, low, high, channels):
    random = torch.Generator().manual_seed(0)
    x = (torch.randn(5, 40, generator=random) * 2).requires_grad_()
    log_scale = torch.full((channels,) if channels else (), math.log(0.02 if high == 255 else 0.3)).requires_grad_()
    weights = torch.randn(5, 40, generator=random)
    (fake_quantize(x, log_scale, zero, low, high) * weights).sum().backward()
    # the same by autograd: rounding passes its gradient on, and LSQ scales that of the step
    y, step = x.detach().clone().requires_grad_(), log_scale.detach().exp().requires_grad_()
    count = x.numel() / max(1, channels)
    g = 1 / math.sqrt(count * max(high - zero, zero - low))
    scaled = step * g + (step - step * g).detach()
    scaled = scaled.reshape(-1, 1) if channels else scaled
    codes = (y / scaled).clamp(low - zero, high - zero)
    ((codes + (codes.round() - codes).detach()) * scaled * weights).sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-5)
    assert torch.allclose(log_scale.grad, step.grad * step.detach(), rtol=1e-3, atol=1e-4)


def test_masks_stay():
    given = images()
    pruned = run("fold_batch_norm, sparsify(ratio=0.5)", given).program
    outcome = run("train_quantized(epochs=2, rate=0.01, batch_size=32)", given, pruned)
    for name in ("a.weight", "b.weight", "d.weight", "head.weight"):
        codes = outcome.program.tensors()[f"{name}_int8"]
        assert bool((codes[pruned.tensors()[name] == 0] == 0).all())
        assert bool((codes != 0).any())


def test_integer_kernels_run_it(tmp_path):
    from fxopt.backends.onnx import Onnx
    from fxopt.driver.lower import lower
    from fxopt.target.detect import host

    given = images()
    passes = Pipeline.parse("train_quantized(epochs=1, rate=0.01, batch_size=32)")
    outcome = passes.run(given.capture(), workload=given, watchers=(), backend=Onnx(), target=host())
    _, built = lower(outcome.program, Onnx(), host(), tmp_path, workload=given)
    facts = built.manifest.facts
    assert facts["integer_contractions"] == 5
    assert not facts["float_contractions"]
    x = given.data.points[:8]
    assert torch.allclose(torch.as_tensor(built(x.numpy())), outcome.program(x), atol=0.05)


def test_quantized_already_is_refused():
    given = images()
    with pytest.raises(PassError, match="the program is quantized already; train it before, and quantize once"):
        run("train_quantized(epochs=1)", given, run("quantize", given).program)


def test_layers_may_stay_float_and_say_so():
    outcome = run("train_quantized(epochs=1, batch_size=32, keep_float=('a',))", workload(Plain))
    assert any("kept in float" in skip.reason for skip in outcome.steps[-1].skips)
    assert "a.weight" in outcome.program.tensors()
    assert "b.weight_int8" in outcome.program.tensors()


def test_without_data_it_says_what_is_missing():
    program = capture(Net().eval(), (torch.zeros(2, 6),))
    with pytest.raises(DataError, match="train_quantized needs training data"):
        Pipeline.parse("train_quantized").run(program)
