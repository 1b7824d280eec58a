"""Everything that runs graphs on data, on a device that refuses tensors of the CPU: run by test_on_pretend.py, as a process."""

import functools

import pytest
import torch
from cases.pretend_device import DEVICE, NAME, Pretend
from cases.training import Plain, weights
from cases.training import workload as blobs
from torch import nn
from torch.nn import functional as F

from fxopt import Context, Pipeline, Workload, registry
from fxopt.driver.recipe import Recipe
from fxopt.errors import DeviceError, ResourceError
from fxopt.ir import transfer
from fxopt.ir.placement import place, placed
from fxopt.ir.transfer import put, take
from fxopt.numerics.compute_device import device_key, find_compute_device

torch.set_num_threads(1)


class Scenes:
    """Images of four kinds, each with its own colour."""

    metric = "top-1"

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(40) % 4
        colours = torch.randn(4, 3, 1, 1, generator=generator)
        self.images = colours[self.labels] + 0.5 * torch.randn(40, 3, 6, 6, generator=generator)

    def batches(self, split, *, batch_size, seed=None):
        rows = torch.arange(24) if split == "train" else torch.arange(24, 40)
        if seed is not None:
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
        for some in rows.split(batch_size):
            yield (self.images[some],), self.labels[some]

    def loss(self, output, target):
        return F.cross_entropy(output, target)

    def evaluate(self, model, split="test"):
        (args, target) = next(self.batches(split, batch_size=99))
        return float((torch.as_tensor(model(*args)).argmax(1) == target).float().mean())


class Net(nn.Module):
    """Convolutions, norms, two residual branches, a buffer, and numbers that the graph makes on a device."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.hidden, self.head = nn.Linear(8 * 9, 32), nn.Linear(32, 4)
        self.register_buffer("shift", torch.full((8, 1, 1), 0.1))

    def forward(self, x):
        x = F.relu(self.norm(self.first(x))) + self.shift
        for branch in self.branches:
            x = x + branch(F.relu(x))
        x = F.max_pool2d(x, 2)
        x = x + 0.01 * torch.arange(x.shape[-1], device=x.device)
        return self.head(F.relu(self.hidden(x.flatten(1))))


@functools.cache
def scenes():
    return Workload(
        name="scenes",
        model=lambda: Net().eval(),
        inputs=lambda: ((torch.zeros(2, 3, 6, 6),), {}),
        data=Scenes(),
    )


def run(passes, device, given=None, watchers=()):
    given = given or scenes()
    return Pipeline.parse(passes).run(captured(given), workload=given, device=device, watchers=watchers)


@functools.cache
def captured(given):
    """The program of a workload, which no pipeline changes."""
    return given.capture()


TRAIN = "epochs=1, batch_size=12"
PASSES = [
    f"sparsify(ratio=0.3), finetune({TRAIN}, ema=0.9, sparsity=0.6)",
    f"prune_channels(ratio=0.3), distill({TRAIN}, features='hint')",
    "zero_channels(ratio=0.3, by='taylor')",
    "zero_channels(ratio=0.3, by='hessian', samples=12)",
    "zero_channels(ratio=0.3, by='activation', reconstruct=True)",
    "zero_channels(ratio=0.3, by='wanda')",
    "zero_layers(ratio=0.5, by='similarity')",
    "zero_layers(ratio=0.5, by='loss')",
    "sparsify(ratio=0.5, by='movement'), reconstruct(samples=24)",
    "reestimate_batch_norm",
    "truncate_rank(ratio=0.5, data_aware=True)",
    "truncate_rank(ratio=0.5, data_aware=True, form='channel')",
    "truncate_rank(metric_drop=0.3, only=('hidden',))",
    "fold_batch_norm, insert_qdq(calibration='mse', correct_bias='empirical', sqnr_db=15.0)",
    "fold_batch_norm, insert_qdq(rounding='adaround', keep_float=('first', 'branches.*', 'head'))",
    "quantize_weights(rounding='gptq')",
    f"train_quantized({TRAIN})",
    f"train_supernet({TRAIN})",
    "substitute(choice=('branches.0=depthwise_pointwise',), samples=16, epochs=1)",
]


def close(passes):
    """Results on the two devices are equal, but for rounding: both compute the same numbers in the same precision."""
    before, there = run(passes, "cpu"), run(passes, NAME)
    ours, theirs = weights(before), weights(there)
    assert ours.keys() == theirs.keys()
    assert {t.device.type for t in theirs.values()} == {"cpu"}
    assert there.program.device.type == "cpu"
    assert "pretend" not in str(there.program.graph)
    for name, tensor in ours.items():
        assert tensor.shape == theirs[name].shape
        off = (tensor.double() - theirs[name].double()).abs()
        assert float(off.max()) < 5e-3, f"{name}: {off.max()}"
    assert [s.changed for s in before.steps] == [s.changed for s in there.steps]
    assert any(step.changed for step in there.steps)


@pytest.mark.parametrize("passes", PASSES)
def test_a_pass_runs_there_and_gives_what_it_gives_on_the_cpu(passes):
    before = Pretend.to_device, Pretend.ops
    close(passes)
    assert Pretend.to_device > before[0]
    assert Pretend.ops > before[1] + 50, "graphs ran there"


@pytest.mark.parametrize(
    "passes",
    [
        "zero_channels(ratio=0.3, by='activation', reconstruct=True), reestimate_batch_norm",
        "quantize_weights(rounding='gptq')",
    ],
)
def test_statistics_are_summed_on_the_cpu_where_a_device_has_no_float64(passes):
    transfer.NO_FLOAT64.add("pretend")
    try:
        with Pretend.having(double=False):
            close(passes)
    finally:
        transfer.NO_FLOAT64.discard("pretend")


def test_a_batch_travels_once():
    given = blobs(Plain)

    def sent(epochs):
        before = Pretend.to_device
        run(f"finetune(epochs={epochs}, batch_size=32)", NAME, given)
        return Pretend.to_device - before

    # an epoch trains on 5 batches; its validation takes 3 for the loss, each with labels, and one for the metric
    assert sent(2) - sent(1) == 5 * 2 + 3 * 2 + 1


def test_tensors_of_both_meet_in_no_op():
    there = put(torch.ones(3), DEVICE)
    with pytest.raises(RuntimeError, match="in one op"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="in one op"):
        there[torch.tensor([1])]
    assert torch.equal(take(there + 1), torch.full((3,), 2.0))


def test_a_placed_program_answers_on_the_cpu_and_is_put_back_to_the_bit():
    program = scenes().capture()
    x = torch.randn(2, 3, 6, 6)
    want, text, tensors = program(x), program.text(), program.tensors()
    with placed(program, NAME) as there:
        assert {t.device.type for t in there.tensors().values()} == {"pretend"}
        assert "pretend" in there.text()
        assert torch.allclose(there(x), want, atol=1e-6)
        twin = there.copy()
    assert program.text() == text
    assert all(program.tensors()[name] is tensor for name, tensor in tensors.items())
    assert torch.equal(program(x), want)
    assert torch.allclose(twin(x), want, atol=1e-6), "a copy stays there"
    place(twin, torch.device("cpu"))
    assert twin == program


def test_equal_seeds_give_equal_weights_there():
    def with_dropout(seed):
        return weights(run(f"finetune(epochs=1, batch_size=32, rate=0.02, seed={seed})", NAME, blobs()))

    first, again, other = with_dropout(1), with_dropout(1), with_dropout(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_lost_device_is_an_error_that_says_how_to_go_on_and_the_training_does(tmp_path):
    def asked(folder):
        return f"finetune(epochs=3, batch_size=32, ema=0.9, checkpoint={str(tmp_path / folder)!r})"

    before = Pretend.ops
    whole = weights(run(asked("whole"), NAME, blobs()))
    with Pretend.having(dies_in=int(0.7 * (Pretend.ops - before))), pytest.raises(DeviceError) as caught:
        run(asked("cut"), NAME, blobs())
    assert "the device failed" in caught.value.what
    assert NAME in caught.value.what
    assert "fallen off the bus" in str(caught.value.got)
    assert "goes on behind epoch" in str(caught.value.way_out)
    resumed = weights(run(asked("cut"), NAME, blobs()))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_full_device_gets_smaller_parts_and_the_step_says_so():
    given = blobs(Plain)
    whole = run("finetune(epochs=1, batch_size=32, clip=1.0)", NAME, given)
    with Pretend.having(limit=16 * 16 * 4):  # a hidden value of 16 examples
        cut = run("finetune(epochs=1, batch_size=32, clip=1.0)", NAME, given)
    (choice,) = cut.steps[0].choices
    assert (choice.what, choice.value) == ("accumulate", 2)
    assert "was full" in choice.why
    for name, tensor in weights(whole).items():
        assert torch.allclose(tensor, weights(cut)[name], atol=1e-4)


def test_a_device_that_holds_no_example_is_an_error():
    class Wide(Plain):
        def forward(self, x):
            return self.b(F.relu(self.a(x))).repeat(1, 100)

    given = blobs(Wide)
    for passes in ("finetune(epochs=1, batch_size=8, sparsity=0.5)", "finetune(epochs=1, batch_size=8)", "insert_qdq"):
        with Pretend.having(limit=1024), pytest.raises(ResourceError) as caught:
            run(passes, NAME, given)
        assert "memory" in str(caught.value)
        assert caught.value.way_out
        assert passes.split("(")[0] in str(caught.value)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_trains_there(precision):
    outcome = run(
        f"finetune(epochs=2, batch_size=32, rate=0.05, clip=1.0, precision={precision!r})", NAME, blobs(Plain), None
    )
    assert outcome.steps[0].findings.metric > 0.5


def test_names():
    assert find_compute_device("auto") == find_compute_device("pretend") == NAME
    with pytest.raises(DeviceError, match="pretend:1") as caught:
        find_compute_device("pretend:1")
    assert "pretend:0" in str(caught.value.way_out)
    with pytest.raises(DeviceError, match="'cuda'"):
        find_compute_device("cuda")
    assert device_key(NAME) != device_key("cpu") == "cpu"


def test_the_metric_of_a_step_is_computed_there():
    before = Pretend.ops
    outcome = run("fold_batch_norm, quantize", NAME, watchers=None)
    assert outcome.steps[-1].findings.metric is not None
    assert Pretend.ops > before + 50


def test_sub_networks_of_a_supernet_are_scored_there():
    program, given = captured(scenes()), scenes()
    batches = [[args[0]] for args, _ in given.data.batches("validation", batch_size=8)]
    found = []
    for device in ("cpu", NAME):
        supernet = registry.get("analysis", "supernet")(program, Context(given, device=device))
        smallest, *_ = supernet.draw(supernet.offered(), 1, 0.3, 0)
        found.append(torch.cat([output for (output,) in supernet.outputs(*smallest, batches)]))
    assert found[0].device == found[1].device
    assert torch.allclose(*found, atol=1e-4)


def test_a_recipe_names_it():
    assert Recipe("digits", device="auto").to_dict()["device"] == "auto"
