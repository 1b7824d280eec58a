"""Seconds of channel pruning beside Torch-Pruning: interleaved in one process, one thread, medians of CPU seconds.

::

    pip install -c constraints.txt -e '.[peers]'       # torch-pruning, beside torch and the zoo
    python tests/bench/prune_time.py [resnet18 vgg16_bn] [--scope global] [--rounds 5]

Both remove half of the channels by the l1 norm of their groups, on torchvision's models with random weights, batch 1. What
is counted:

* theirs: ``MagnitudePruner(...)``, which traces the model by a run and its backward graph and builds the groups, and
  ``step()``, which ranks and removes; ``without trace`` leaves out the run and the walk over its graph
* ours: ``zero_channels`` and ``shrink`` on a captured program: coupling, importance, choice, zeroing, liveness, removal.
  ``pipeline`` adds what a pipeline without verification does around them: copies, checksums of shared weights, costs,
  shapes derived anew

Copies of the model to prune, capture and proofs are not counted; seconds of capture stand beside. The last column is
passes ÷ theirs: below 1 we are faster.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from prune_peer import widest
from torch import nn

from fxopt import Pipeline, Program, capture
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.context import Context
from fxopt.workload import find_workload

MODELS = (
    "resnet18", "resnet50", "mobilenet_v2", "vgg16_bn", "resnext50_32x4d", "densenet121", "vit_b_16", "convnext_tiny",
)  # fmt: skip
COLUMNS = ("theirs", "without trace", "passes", "pipeline", "capture")
Seconds = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, help="names of torchvision's models")
    parser.add_argument("--rounds", type=int, default=5, help="of both sides in turn, after one that warms up")
    parser.add_argument("--scope", choices=("layer", "global"), default="layer", help="where channels compete")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"| model | {' | '.join(COLUMNS)} | passes ÷ theirs |\n" + "| --- " * (len(COLUMNS) + 2) + "|")
    for name in options.models:
        medians = {k: statistics.median(v) for k, v in measured(name, options.scope, options.rounds).items()}
        cells = [f"{medians[c]:.3f}" if c in medians else "fails" for c in COLUMNS]
        ratio = f"{medians['passes'] / medians['theirs']:.2f}" if "theirs" in medians else ""
        print(f"| {' | '.join([name, *cells, ratio])} |", flush=True)


def measured(name: str, scope: str, rounds: int) -> Seconds:
    """CPU seconds of every column, round by round."""
    workload = find_workload(f"torchvision:{name}")
    model, (args, _) = workload.model(), workload.inputs()
    ignored = [n for n, m in model.named_modules() if m in set(widest(model, args))]
    found: Seconds = defaultdict(list)
    start = time.process_time()
    program = capture(model, args)
    found["capture"].append(time.process_time() - start)
    pipeline = Pipeline.parse(f"prune_channels(ratio=0.5, by='l1', scope={scope!r})")
    for _ in range(rounds + 1):
        theirs(copy.deepcopy(model), args, ignored, scope == "global", found)
        ours(program, pipeline, found)
    return {column: values[1:] or values for column, values in found.items()}


def ours(program: Program, pipeline: Pipeline, found: Seconds) -> None:
    work = shared_copy(program)
    steps = [step for composite in pipeline.passes for step in composite.steps()]
    found["passes"].append(seconds(lambda: [step.run(work, Context()) for step in steps]))
    found["pipeline"].append(seconds(lambda: pipeline.run(program, watchers=())))


def theirs(model: nn.Module, args: tuple[Any, ...], ignored: list[str], everywhere: bool, found: Seconds) -> None:
    import torch_pruning as tp

    trace, traced = tp.DependencyGraph._trace, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = trace(*args, **kwargs)
        traced.append(time.process_time() - start)
        return result

    def prune() -> None:
        importance = tp.importance.GroupMagnitudeImportance(p=1)
        pruner = tp.pruner.MagnitudePruner(model, list(args), importance, pruning_ratio=0.5, global_pruning=everywhere,
                                           ignored_layers=list(map(model.get_submodule, ignored)))  # fmt: skip
        pruner.step()

    try:
        with mock.patch.object(tp.DependencyGraph, "_trace", timed):
            taken = seconds(prune)
    except Exception as error:
        print(f"torch-pruning on {type(model).__name__}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
        return
    found["theirs"].append(taken)
    found["without trace"].append(taken - sum(traced))


def seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of a call; garbage of earlier ones is collected before it."""
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
