"""Fine-tuning on the captured graph: the numbers of plain torch, and nothing lost on the way."""

import io
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases.training import (
    CLASSES,
    PLAIN,
    Images,
    Net,
    Plain,
    is_the_best_of,
    plain_torch,
    run,
    weights,
    workload,
)
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from fxopt import Workload
from fxopt.errors import DataError, UsageError
from fxopt.passes.train import loop
from fxopt.passes.train.finetune import finetune
from fxopt.passes.train.optimizer import make_optimizer, make_schedule
from fxopt.passes.train.supervised import Supervised
from fxopt.support.progress import shown_on

pytestmark = pytest.mark.usefixtures("one_thread")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


FAST = "finetune(epochs=4, rate=0.02, batch_size=32"


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_the_numbers_are_those_of_a_loop_in_plain_torch(precision):
    trained = weights(run(f"finetune({PLAIN}, precision={precision!r})", workload(Plain)))
    found = {kind: is_the_best_of(trained, plain_torch(cross_entropy, kind)) for kind in ("32", "bf16-mixed")}
    assert found == {"32": precision == "32", "bf16-mixed": precision == "bf16-mixed"}
    assert all(tensor.dtype == torch.float32 for tensor in trained.values())


def cross_entropy(output, args, target):
    return F.cross_entropy(output, target)


def test_the_graph_stays_with_every_probability_momentum_and_eps():
    given = workload()
    program = given.capture()
    outcome = run(f"{FAST})", given, program)
    assert outcome.steps[0].changed
    assert outcome.program.text() == program.text()
    assert "0.2, False" in program.text(), "the dropout"
    assert "False, 0.3" in program.text(), "the batch norm"


def test_equal_seeds_give_equal_weights_and_the_callers_random_state_is_kept():
    given = workload()
    program = given.capture()
    torch.manual_seed(3)
    first = weights(run(f"{FAST}, seed=1)", given, program))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    assert same(first, weights(run(f"{FAST}, seed=1)")))
    assert not same(first, weights(run(f"{FAST}, seed=2)")))


def test_a_frozen_batch_norm_keeps_statistics_scale_and_shift():
    before = {name: t.clone() for name, t in workload().capture().tensors().items()}
    frozen, live = weights(run(f"{FAST}, batch_norm='frozen')")), weights(run(f"{FAST})"))
    norm = [name for name in before if name.startswith("norm")]
    assert len(norm) == 4
    assert all(torch.equal(frozen[name], before[name]) for name in norm)
    assert all(not torch.equal(live[name], before[name]) for name in norm)
    assert not torch.equal(frozen["a.weight"], before["a.weight"])


def test_zeros_stay_and_no_other_weight_becomes_zero():
    pruned = run("sparsify(ratio=0.6)")
    tuned = run(f"{FAST})", program=pruned.program)
    assert tuned.steps[0].changed
    for name in ("a.weight", "b.weight"):
        assert torch.equal(pruned.program.tensors()[name] == 0, tuned.program.tensors()[name] == 0)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_gradual_pruning_ends_at_its_share(share):
    tuned = weights(run(f"finetune(epochs=8, rate=0.02, batch_size=32, sparsity={share})"))
    zero = sum(int((tuned[name] == 0).sum()) for name in ("a.weight", "b.weight"))
    assert zero == round(share * (6 * 16 + 16 * CLASSES))


def test_what_training_makes_worse_stays_as_it_was():
    given = workload()
    good = run("finetune(epochs=20, rate=0.02, batch_size=32)", given).program
    outcome = run("finetune(epochs=2, rate=50.0, batch_size=32)", given, good)
    assert given.data.evaluate(outcome.program, "validation") >= given.data.evaluate(good, "validation")
    assert not outcome.steps[0].changed


def test_patience_stops_before_the_last_epoch():
    given = workload()
    given.data.calls = 0
    run("finetune(epochs=60, rate=1e-9, batch_size=32, patience=2)", given)
    assert given.data.calls <= 5 * 4


def test_a_terminal_is_shown_the_best_metric_so_far():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    given = workload()
    with shown_on(terminal):
        outcome = run(f"{FAST})", given)
    best = given.data.evaluate(outcome.program, "validation")
    assert f"finetune: best top-1 {best:.4f}" in terminal.file.getvalue()


def test_the_average_is_that_of_the_definition():
    from fxopt.passes.train.average import Average

    layer, random = nn.Linear(2, 2), torch.Generator().manual_seed(0)
    average, mean = Average(layer, 0.9), layer.weight.detach().clone()
    for t in range(1, 30):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(2, 2, generator=random))
        average.update()
        decay = min(0.9, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * layer.weight.detach()
    now = layer.weight.detach().clone()
    with average.in_place():
        assert torch.allclose(layer.weight, mean, atol=1e-6)
    assert torch.equal(layer.weight, now)


def test_smoothed_labels_are_those_of_torch():
    random = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(9, CLASSES, generator=random), torch.arange(9) % CLASSES
    found = Supervised(workload(), finetune(label_smoothing=0.2)).smoothed(scores, labels)
    assert torch.allclose(found, nn.CrossEntropyLoss(label_smoothing=0.2)(scores, labels))


def test_the_rate_rises_in_the_warm_up_and_falls_to_zero_along_a_cosine():
    how = finetune(rate=0.5, warmup=0.25)
    optimizer = make_optimizer(nn.Linear(2, 2).parameters(), how)
    schedule, rates = make_schedule(optimizer, how, 20), []
    for _ in range(21):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.5 * k / 6 for k in range(1, 6)])
    assert max(rates) == rates[5] == 0.5
    assert rates[5:] == pytest.approx([0.25 * (1 + math.cos(math.pi * k / 15)) for k in range(16)])


@pytest.mark.parametrize("bound", [False, True])
def test_convolutions_train_in_the_layout_that_is_fastest_to_the_same_numbers(bound, monkeypatch):
    layouts = []

    def spy(parameters, how):
        parameters = list(parameters)
        layouts.extend(p.is_contiguous() for p in parameters if p.dim() == 4)
        return make_optimizer(parameters, how)

    passes, given = "finetune(epochs=3, rate=0.02, batch_size=32)", workload(lambda: Images(bound))
    want = weights(run(passes, workload(lambda: Images(True))))
    monkeypatch.setattr(loop, "make_optimizer", spy)
    found = weights(run(passes, given))
    assert layouts == [bound]
    assert all(torch.allclose(found[name], want[name], atol=1e-5) for name in want)
    assert all(tensor.is_contiguous() for tensor in found.values())
    assert not torch.equal(found["conv.weight"], Images(bound).conv.weight)


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_labels_out_of_range_are_named():
    with pytest.raises(DataError, match=r"labels run from 1 to 4, the model has 4 classes, 0 to 3"):
        run(f"{FAST})", workload(shift=1))


def test_a_loss_that_is_no_number_in_the_first_epoch_is_an_error_with_the_way_out():
    with pytest.raises(
        DataError, match=r"loss is nan in step 1 of 20, in the first epoch; take a lower rate than 0.02"
    ):
        run(f"{FAST})", workload(bad_epoch=1e-9))


def test_a_loss_that_is_no_number_later_ends_training_with_the_best_weights():
    given = workload(bad_epoch=2)
    before = given.data.evaluate(given.capture(), "validation")
    outcome = run(f"{FAST})", given)
    assert "training stopped, the best weights until then are kept" in outcome.steps[0].skips[0].reason
    assert given.data.evaluate(outcome.program, "validation") > before
    assert all(bool(t.isfinite().all()) for t in outcome.program.tensors().values())


def test_without_data_it_says_what_is_missing():
    bare = Workload(name="bare", model=lambda: Net().eval(), inputs=lambda: ((torch.zeros(2, 6),), {}))
    with pytest.raises(DataError, match="finetune needs data, and the workload 'bare' has none"):
        run(f"{FAST})", bare)


def test_smoothing_without_classes_is_refused():
    given = workload()
    given.data.loss = lambda output, target: output.square().mean()
    given.data.batches = lambda split, **_: iter([((torch.zeros(4, 6),), torch.zeros(4, CLASSES))])
    with pytest.raises(DataError, match="label_smoothing is for class labels"):
        run(f"{FAST}, label_smoothing=0.1)", given)


# ---- stopped and resumed -------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


@pytest.mark.parametrize("options", ["", ", ema=0.9", ", sparsity=0.5", ", optimizer='sgd'"])
def test_resumed_after_any_epoch_it_comes_to_the_same_weights(tmp_path, monkeypatch, options):
    passes = f"{FAST}{options}, checkpoint={str(tmp_path)!r})"
    whole = weights(run(f"{FAST}{options})"))
    write, seen = loop.Checkpoint.write, []

    def stop_after(self, state):
        write(self, state)
        seen.append(state["epoch"])
        if state["epoch"] in (1, 3):
            raise Stopped

    monkeypatch.setattr(loop.Checkpoint, "write", stop_after)
    for _ in range(2):
        with pytest.raises(Exception, match="Stopped"):
            run(passes)
    resumed = weights(run(passes))
    assert seen == [1, 2, 3, 4], "no epoch is trained twice"
    assert same(resumed, whole)
    assert same(weights(run(passes)), whole), "what is finished is not trained again"
    assert seen == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_named(tmp_path):
    passes = f"{FAST}, checkpoint={str(tmp_path)!r})"
    run(passes)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UsageError, match=r"finetune: checkpoint .*: it cannot be read: .*\n  delete it to begin anew"):
        run(passes)


def test_a_checkpoint_of_another_graph_is_named(tmp_path):
    passes = f"{FAST}, checkpoint={str(tmp_path)!r})"
    run(passes)
    (file,) = tmp_path.iterdir()
    run(passes, workload(Plain))
    (other,) = set(tmp_path.iterdir()) - {file}
    assert same(weights(run(passes)), weights(run(f"{FAST})"))), "two programs in one folder do not meet"
    file.rename(other)
    with pytest.raises(UsageError, match="it is of another program, or of other options\n  delete it to begin anew"):
        run(passes, workload(Plain))


SCRIPT = """
import os, sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from cases.training import Images, Net, Plain, run, weights, workload
from fxopt.passes.train import loop
write = loop.Checkpoint.write
def slowly(self, state):
    write(self, state)
    print("epoch", state["epoch"], flush=True)
    time.sleep({pause})
loop.Checkpoint.write = slowly
one, losses = loop._Training._loss, []
def noted(self, *args):
    noted.objective = self.objective
    losses.append(one(self, *args))
    return losses[-1]
loop._Training._loss = noted
done = weights(run({passes!r}, workload({net})))
torch.save((done, torch.stack(losses).detach(), noted.objective.state_dict()), {out!r} + os.environ.get("RANK", ""))
"""


def script(passes, out, net="Net", pause=0.0):
    return SCRIPT.format(tests=str(Path(__file__).parents[2]), passes=passes, out=str(out), net=net, pause=pause)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path):
    passes = f"finetune(epochs=6, rate=0.02, batch_size=32, checkpoint={str(tmp_path / 'c')!r})"
    command = [sys.executable, "-c", script(passes, tmp_path / "out", pause=0.3)]
    for pause in (0.05, 0.25, 0.4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline().startswith("epoch"), "it came to a checkpoint"
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True)
    whole = weights(run("finetune(epochs=6, rate=0.02, batch_size=32)"))
    assert same(torch.load(tmp_path / "out")[0], whole)


def in_one_and_in_two_processes(folder, passes, net):
    """Weights, loss of every step and state of the objective: of one process alone, and of each of two."""
    (folder / "train.py").write_text(script(passes, folder / "out", net=net))
    subprocess.run([sys.executable, str(folder / "train.py")], check=True, timeout=300)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, str(folder / "train.py")], check=True, timeout=300)
    return [torch.load(folder / f"out{rank}") for rank in ("", "0", "1")]


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    passes = "finetune(epochs=4, rate=0.02, batch_size=32, optimizer='sgd')"
    found = in_one_and_in_two_processes(tmp_path, passes, "Plain")
    (alone, curve, _), (one, first, _), (two, second, _) = found
    assert same(one, two), "both processes end with the same weights"
    assert one.keys() == alone.keys()
    assert all(torch.allclose(one[name], alone[name], atol=1e-5) for name in alone)
    assert len(curve) == 4 * 5
    assert torch.allclose((first + second) / 2, curve, atol=1e-5), "the loss of every step is that of one process"
    assert not torch.allclose(first, second, atol=1e-3), "each saw examples of its own"
    assert curve[-5:].mean() < 0.8 * curve[:5].mean()


@pytest.mark.slow
def test_two_processes_learn_one_map_of_hints(tmp_path):
    passes = "prune_channels(ratio=0.5, by='l1'), distill(epochs=2, rate=0.02, batch_size=32, features='hint')"
    found = in_one_and_in_two_processes(tmp_path, passes, "lambda: Images(False)")
    (_, curve, alone), (one, first, maps), (two, second, others) = found
    assert same(one, two)
    assert maps
    assert same(maps, others), "the maps are not part of the model, and their gradients are averaged too"
    assert all(torch.allclose(maps[name], alone[name], atol=0.02) for name in maps), "a hint is relative to its batch"
    assert torch.allclose((first + second) / 2, curve, rtol=0.05)
