"""Training of a supernet: small sub-networks get better, the whole's statistics are its own, and nothing depends on a kill."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases.training import Blobs, Plain, learned, run, weights, workload
from torch.nn import functional as F

from fxopt import Context, Pipeline, Workload
from fxopt.errors import DataError, PassError
from fxopt.passes.supernet.supernet import Supernet

pytestmark = pytest.mark.usefixtures("one_thread")

HOW = "epochs=6, rate=0.02, batch_size=40, widths=(0.25, 0.5, 1.0), seed=3"


@pytest.fixture(scope="module")
def given():
    return learned()


def divergence(program, original, given, count):
    """Of the sub-network of so many hidden units from the original."""
    x = given.data.points[160:]
    net = Supernet(program, Context(given))
    ((got,),) = net.outputs((count,), (), [[x]])
    want = original(x).log_softmax(1)
    return float(F.kl_div(got.log_softmax(1), want, log_target=True, reduction="batchmean"))


def test_small_subnets_get_better_and_the_whole_stays(given):
    original = given.capture()
    (before,) = [Pipeline.parse("sort_channels").run(original).program]
    outcome = run(f"sort_channels, train_supernet({HOW.replace('epochs=6', 'epochs=40')})", given, original)
    after = outcome.program
    for count in (4, 8):
        assert divergence(after, original, given, count) < divergence(before, original, given, count) / 2
    drop = given.data.evaluate(original, "validation") - given.data.evaluate(after, "validation")
    assert drop < 0.1
    assert after.text() == before.text()


def test_statistics_are_those_of_the_whole(given):
    """The running mean behind one epoch is what torch's own module has behind the same batches; no sub-network has a say."""
    net = given.model()
    net.drop.p = 0.0
    alone = dataclasses.replace(given, model=lambda: net)
    got = weights(run("train_supernet(epochs=1, rate=1e-12, batch_size=40, weight_decay=0.0)", alone))
    net.train()
    with torch.no_grad():
        for args, _ in alone.data.batches("train", batch_size=40, seed=0):
            net(*args)
    torch.testing.assert_close(got["norm.running_mean"], net.norm.running_mean)
    torch.testing.assert_close(got["norm.running_var"], net.norm.running_var)


class Stops(Blobs):
    """Data that end the training in the third epoch, as Ctrl-C does."""

    def batches(self, split, *, batch_size, seed=None):
        if seed == 30_000 + 2:
            raise KeyboardInterrupt
        yield from super().batches(split, batch_size=batch_size, seed=seed)


def test_an_interrupted_training_goes_on_to_the_same_weights(given, tmp_path):
    passes = f"train_supernet({HOW}, checkpoint={str(tmp_path)!r})"
    stops = dataclasses.replace(given, data=Stops())
    with pytest.raises(KeyboardInterrupt):
        run(passes, stops)
    resumed = weights(run(passes, given))
    whole = weights(run(passes.replace(str(tmp_path), str(tmp_path / "other")), given))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_loss_that_is_not_finite_names_the_subnet(given):
    with pytest.raises(DataError, match="train_supernet: the loss"):
        run("train_supernet(epochs=2, rate=1e30)", given)


def test_programs_that_cannot_be_trained(given):
    coded = Pipeline.parse("quantize_weights").run(given.capture()).program
    with pytest.raises(PassError, match="train a supernet first, quantize after it"):
        run("train_supernet", given, coded)
    lone = Workload(
        name="lone", model=lambda: torch.nn.Linear(6, 4), inputs=lambda: ((torch.zeros(2, 6),), {}), data=Blobs()
    )
    (step,) = run("train_supernet", lone).steps
    assert not step.changed
    assert "nothing is elastic" in " ".join(skip.reason for skip in step.skips)


SCRIPT = """
import os, sys, torch
torch.set_num_threads(1)
from cases.training import Plain, learned, run, weights, workload
found = weights(run(sys.argv[1], {given}))
torch.save(found, sys.argv[2] + os.environ.get("RANK", ""))
"""


def written(folder, given):
    """The script for a workload, as source, and the environment that it needs."""
    (folder / "go.py").write_text(SCRIPT.format(given=given))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}


@pytest.mark.slow
def test_kill_9_in_training_and_resume_gives_the_same_weights(tmp_path):
    """The process is killed as soon as a checkpoint is there, with epochs to go."""
    environment = written(tmp_path, "learned()")

    def start(folder, result):
        passes = f"train_supernet({HOW.replace('epochs=6', 'epochs=40')}, checkpoint={str(folder)!r})"
        return subprocess.Popen([sys.executable, tmp_path / "go.py", passes, result], env=environment)

    killed = start(tmp_path / "a", tmp_path / "never.pt")
    end = time.monotonic() + 300
    while not list((tmp_path / "a").glob("*.pt")) and time.monotonic() < end:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "never.pt").exists()
    assert start(tmp_path / "a", tmp_path / "resumed.pt").wait() == 0
    assert start(tmp_path / "b", tmp_path / "whole.pt").wait() == 0
    resumed, whole = (torch.load(tmp_path / f"{name}.pt") for name in ("resumed", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_train_the_weights_that_one_does(tmp_path):
    """Each sees half of a batch, both the same sub-networks, and gradients of all of them are averaged."""
    environment = written(tmp_path, "workload(Plain)")
    given = [str(tmp_path / "go.py"), f"train_supernet({HOW})", str(tmp_path / "out")]
    for launch in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        subprocess.run([sys.executable, *launch, *given], check=True, env=environment, timeout=300)
    alone, first, second = (torch.load(tmp_path / f"out{rank}") for rank in ("", "0", "1"))
    before = workload(Plain).capture().tensors()
    for name in alone:
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], alone[name], atol=1e-3), name
        assert not torch.allclose(alone[name], before[name], atol=1e-2), "it was trained"
