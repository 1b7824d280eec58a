"""Blocks substituted against low rank, pruning, and both, at equal measured latency.

::

    for l in 0.5 0.25; do for m in glyphs resnet18; do
        python tests/bench/substitution.py run --model $m --latency $l        # five seeds; --seeds 0 for one
    done; done
    python tests/bench/substitution.py show                                   # the table of all that was run

Each method is asked for the same share of the dense model's latency in ONNX Runtime, as measured on this machine, and what
it gives is distilled for the same number of epochs; then all are timed interleaved in one run, and judged on the test split.
``substitute`` chooses among all blocks of the library; ``low_rank`` is its spatial form; ``prune`` is prune_channels;
``both`` prunes to the square root of the share, and goes the rest of the way by low rank. ``glyphs`` has the shipped weights,
``resnet18`` is a narrow net of ResNet-18's shape, trained here from each seed. A seed is that of the distillation; glyphs are
made small once for all seeds.

``run`` appends to build/substitution.jsonl, one line a method. ``show`` prints for each model and latency the test accuracy,
its mean with a 95 % interval (Student's t), how far substitute is ahead with the interval of the paired differences, the
latency reached, and for substitute the predicted share over the measured one, and what the blocks became.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from low_rank import resnet18
from scipy.stats import t as student

from fxopt import Pipeline, Program, capture
from fxopt.backend import find_backend
from fxopt.driver.time_build import built_times
from fxopt.errors import BudgetError
from fxopt.models.glyphs import glyphs
from fxopt.models.train import fit
from fxopt.pass_manager.context import Context
from fxopt.workload import Workload

ROWS = Path("build/substitution.jsonl")
METHODS = ("substitute", "low_rank", "prune", "both")


def dense_model(options: argparse.Namespace, seed: int, workload: Workload) -> Program:
    """The model that all methods begin with, batch norms folded."""
    if options.model == "glyphs":
        dense = workload.capture()
    else:
        torch.manual_seed(seed)
        model = resnet18(options.widths, 45)
        data = workload.need_data("the bench")
        weights = fit(model, data, epochs=options.epochs, batch_size=64, rate=3e-3, seed=seed)  # type: ignore[arg-type]
        model.load_state_dict(weights)
        dense = capture(model.eval().to(memory_format=torch.contiguous_format), (torch.randn(1, 1, 32, 32),))
    return Pipeline.parse("fold_batch_norm, functionalize_writes").run(dense, watchers=()).program


def passes_of(method: str, options: argparse.Namespace) -> str:
    """The passes of a method before distillation."""
    share = options.latency
    match method:
        case "substitute":
            how = f"epochs={options.block_epochs}, samples={options.samples}, entries={tuple(options.entries)!r}"
            return f"substitute(latency='{share}x', {how})"
        case "low_rank":
            return f"low_rank(form='spatial', latency='{share}x')"
        case "prune":
            return f"prune_channels(latency='{share}x', by='taylor', scope='isomorphic')"
        case _:
            half = share**0.5
            first = f"prune_channels(latency='{half:.3f}x', by='taylor', scope='isomorphic')"
            return f"{first}, low_rank(form='spatial', latency='{half:.3f}x')"


def run(options: argparse.Namespace) -> None:
    """All methods at one latency, with every seed."""
    torch.set_num_threads(options.threads)
    workload = glyphs(examples=options.examples)
    context = Context(workload, None, find_backend(f"onnx(threads={options.threads})"))
    small: dict[str, Small] = {}
    for seed in options.seeds:
        if seed == options.seeds[0] or options.model == "resnet18":  # the seed is that of its weights, too
            dense = dense_model(options, seed, workload)
            small = shrunk(dense, options, context)
        rows = [tried(method, it, seed, options, workload) for method, it in small.items()]
        write(rows, dense, seed, options, workload, context)


@dataclass
class Small:
    """What a method makes of the dense model before distillation, and what it says of it; no program where it missed."""

    said: dict[str, Any]
    program: Program | None = None


def shrunk(dense: Program, options: argparse.Namespace, context: Context) -> dict[str, Small]:
    """Every method's program before distillation."""
    found = {}
    for method in options.methods:
        passes = passes_of(method, options)
        began = time.perf_counter()
        try:
            outcome = Pipeline.parse(passes).run(dense, workload=context.workload, backend=context.backend, watchers=())
        except BudgetError as error:
            found[method] = Small({"passes": passes, "missed": error.what})
            continue
        said: dict[str, Any] = {"passes": passes, "seconds": time.perf_counter() - began}
        said["became"] = [f"{c.what}: {c.value}" for step in outcome.steps for c in step.choices]
        measured = [m for step in outcome.steps for m in step.measurements if "taken" in m.of]
        said["predicted"] = next((m.predicted for m in measured if "latency" in m.figure), None)
        said["measured"] = next((m.value for m in measured if "latency" in m.figure), None)
        found[method] = Small(said, outcome.program)
        print(method, f"{said['seconds']:.0f} s", flush=True)
    return found


def tried(
    method: str, small: Small, seed: int, options: argparse.Namespace, workload: Workload
) -> tuple[dict[str, Any], Program | None]:
    """A row and the program, distilled."""
    row = {"method": method, **small.said}
    if small.program is None:
        return row, None
    distill = f"distill(epochs={options.distill}, rate=0.003, soft=0.7, temperature=2.0, seed={seed})"
    program = Pipeline.parse(distill).run(small.program, workload=workload, watchers=()).program
    row["accuracy"] = workload.need_data("the bench").evaluate(program, "test")
    return row, program


def write(
    rows: list[tuple[dict[str, Any], Program | None]],
    dense: Program,
    seed: int,
    options: argparse.Namespace,
    workload: Workload,
    context: Context,
) -> None:
    """Time all that were made in one run, and append the rows."""
    programs = {"dense": dense} | {row["method"]: program for row, program in rows if program is not None}
    times = built_times(programs, context, "the bench", blocks=21)
    said = {"model": options.model, "seed": seed, "latency": options.latency, "distill": options.distill}
    said["dense_accuracy"] = workload.need_data("the bench").evaluate(dense, "test")
    ROWS.parent.mkdir(exist_ok=True)
    with ROWS.open("a") as file:
        for row, _ in rows:
            if row["method"] in times:
                row["ratio"] = times[row["method"]].ratio(times["dense"]).median
            file.write(json.dumps(said | row) + "\n")
            print(json.dumps(said | row), flush=True)


def interval(values: list[float]) -> str:
    """The mean with its 95 % interval; of one value, that."""
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "-"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.4f} ± {half:.4f}"


def show() -> None:
    """The table of all that was run."""
    every = [json.loads(line) for line in ROWS.read_text().splitlines()]
    print(
        "| model | latency asked | method | seeds | accuracy | substitute ahead by | latency | predicted ÷ measured |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for model, latency in sorted({(r["model"], r["latency"]) for r in every}):
        here = [r for r in every if (r["model"], r["latency"]) == (model, latency)]
        ours = {r["seed"]: r["accuracy"] for r in here if r["method"] == "substitute" and "accuracy" in r}
        for method in METHODS:
            rows = [r for r in here if r["method"] == method]
            done = {r["seed"]: r for r in rows if "accuracy" in r}
            ahead = [ours[s] - r["accuracy"] for s, r in done.items() if s in ours and method != "substitute"]
            reached = [r["ratio"] for r in done.values()]
            ratio = [r["predicted"] / r["measured"] for r in done.values() if r.get("predicted")]
            cells = [
                model, latency, method, f"{len(done)} of {len(rows)}", interval([r["accuracy"] for r in done.values()]),
                interval(ahead), interval(reached), interval(ratio),
            ]  # fmt: skip
            print("|", " | ".join(map(str, cells)), "|")
        forms = Counter(
            w.split(": ")[1].split("(")[0] for r in here if r["method"] == "substitute" for w in r.get("became", ())
        )
        print(
            f"\n{model} at {latency}: blocks became {', '.join(f'{name} {n} times' for name, n in forms.most_common())}\n"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "show"))
    parser.add_argument("--model", choices=("glyphs", "resnet18"), default="glyphs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--latency", type=float, default=0.5, help="share of the dense model's (%(default)s)")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--block-epochs", type=int, default=10, help="of each block (%(default)s)")
    parser.add_argument("--samples", type=int, default=512, help="examples that blocks are trained on (%(default)s)")
    parser.add_argument("--entries", nargs="*", default=(), help="of the library; all by default")
    parser.add_argument("--distill", type=int, default=6, help="epochs of distillation of every method (%(default)s)")
    parser.add_argument("--widths", nargs=4, type=int, default=[24, 48, 96, 192], help="of resnet18")
    parser.add_argument("--epochs", type=int, default=10, help="of training resnet18 (%(default)s)")
    parser.add_argument("--examples", type=int, default=9000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    show() if options.command == "show" else run(options)


if __name__ == "__main__":
    main()
