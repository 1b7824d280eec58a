"""Pruning, low rank, training and int8 in every sensible order, with the teacher as it was; and wrong orders refused."""

import pytest
import torch
from cases.training import Blobs
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Workload
from fxopt.backends.onnx import Onnx
from fxopt.driver.lower import lower
from fxopt.errors import PassError
from fxopt.ir.cost import cost
from fxopt.passes.train import distill as module
from fxopt.target.detect import host

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """A stem, a residual block, a depthwise-separable step down and a head: room to prune and to factorize."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24, momentum=0.2)
        self.a, self.b = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.d, self.p = nn.Conv2d(24, 24, 3, 2, 1, groups=24), nn.Conv2d(24, 32, 1)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(32, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        return self.head(self.drop(F.relu(self.p(self.d(x))).mean((2, 3))))


class Images(Blobs):
    """Four patterns 3x8x8 under noise."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shapes = torch.randn(4, 3, 8, 8, generator=generator)
        self.points = shapes[self.labels] + torch.randn(240, 3, 8, 8, generator=generator)


@pytest.fixture(scope="module")
def given():
    inputs = lambda: ((torch.zeros(2, 3, 8, 8),), {})  # noqa: E731
    return Workload(name="images", model=lambda: Net().eval(), inputs=inputs, data=Images())


@pytest.fixture(scope="module")
def dense(given):
    """The teacher: a network that was trained."""
    passes = Pipeline.parse("finetune(epochs=8, rate=0.01, batch_size=32)")
    return passes.run(given.capture(), workload=given, watchers=()).program


@pytest.fixture
def teachers(monkeypatch):
    """The programs that distill takes for teachers."""
    seen, find = [], module.find_teachers

    def spy(*args):
        found = find(*args)
        seen.extend(teacher.program for teacher in found)
        return found

    monkeypatch.setattr(module, "find_teachers", spy)
    return seen


PRUNE, RANK = "prune_channels(ratio=0.25, by='l1')", "low_rank(form='channel', ratio=0.3)"
TEACH = "distill(epochs=4, rate=0.005, batch_size=32)"
ORDERS = {
    "prune, rank": f"{PRUNE}, {RANK}, {TEACH}, quantize",
    "rank, prune": f"{RANK}, {PRUNE}, {TEACH}, quantize",
    "taught after each": f"{PRUNE}, {TEACH}, {RANK}, {TEACH}, quantize",
    "masks last": f"{RANK}, {PRUNE}, sparsify(ratio=0.3), {TEACH}, quantize",
    "masks first": f"sparsify(ratio=0.3), {PRUNE}, {TEACH}, quantize",
    "quantized in training": f"{PRUNE}, {RANK}, {TEACH}, train_quantized(epochs=2, rate=0.002, batch_size=32)",
    "folded first": f"fold_batch_norm, {RANK}, {PRUNE}, {TEACH}, equalize, quantize",
}


@pytest.mark.parametrize("order", ORDERS)
def test_every_sensible_order_ends_in_integers_near_its_teacher(order, given, dense, teachers, tmp_path):
    before = {name: tensor.clone() for name, tensor in dense.tensors().items()}
    outcome = Pipeline.parse(ORDERS[order]).run(dense, workload=given, backend=Onnx(), target=host())
    assert len(teachers) == ORDERS[order].count("distill")
    for teacher in teachers:
        assert teacher.text() == dense.text()
        assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.tensors().items())
    assert cost(outcome.program).macs < 0.75 * cost(dense).macs
    if "low_rank" in ORDERS[order]:
        assert any("_0_int8" in name for name in outcome.program.tensors()), "a factor is in int8"
    _, built = lower(outcome.program, Onnx(), host(), tmp_path, workload=given)
    facts = built.manifest.facts
    assert facts["integer_contractions"] >= 6
    assert not facts["float_contractions"]
    assert given.data.evaluate(built) > given.data.evaluate(dense) - 0.06


def test_masks_under_a_teacher_lose_not_one_zero_down_to_the_codes(given, dense):
    passes = f"{RANK}, sparsify(ratio=0.5)"
    masked = Pipeline.parse(passes).run(dense, workload=given, watchers=()).program
    taught = Pipeline.parse(f"{passes}, {TEACH}").run(dense, workload=given, watchers=())
    assert taught.steps[-1].changed
    codes = Pipeline.parse("quantize").run(taught.program, workload=given, watchers=()).program.tensors()
    zeros = {name: t == 0 for name, t in masked.tensors().items() if name.split(".")[-1].startswith("weight")}
    assert sum(int(z.sum()) for z in zeros.values()) > 1000
    for name, zero in zeros.items():
        assert torch.equal(taught.program.tensors()[name] == 0, zero), name
    stored = [name for name in zeros if f"{name}_int8" in codes]
    assert len(stored) >= 5
    assert all(bool((codes[f"{name}_int8"][zeros[name]] == 0).all()) for name in stored)


@pytest.mark.parametrize("first", ["quantize", "quantize_weights", "quantize_dynamic"])
@pytest.mark.parametrize("second", ["finetune(epochs=1)", "distill(epochs=1)", "train_quantized(epochs=1)"])
def test_training_after_quantization_is_refused_with_the_reason_and_the_way_out(first, second, given, dense):
    with pytest.raises(PassError, match=r"the program is quantized.*; train (it )?before"):
        Pipeline.parse(f"{first}, {second}").run(dense, workload=given, watchers=())


@pytest.mark.parametrize("second", ["factorize", RANK, PRUNE, "prune_layers", "sparsify(ratio=0.5)", "quantize"])
def test_what_changes_weights_after_quantization_is_refused_with_the_reason(second, given, dense):
    with pytest.raises(PassError, match="quantized"):
        Pipeline.parse(f"quantize, {second}").run(dense, workload=given, watchers=())
