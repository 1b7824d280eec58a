"""Blocks substituted against low rank, pruning, and both, at equal measured latency.

::

    python tests/bench/substitution.py run --model glyphs --seed 0 --latency 0.5      # one seed, one latency: a few lines of JSON
    for s in 0 1 2 3 4; do for l in 0.5 0.25; do
        python tests/bench/substitution.py run --model resnet18 --seed $s --latency $l
    done; done
    python tests/bench/substitution.py show                                           # the table of all that was run

Each method is asked for the same share of the dense model's latency in ONNX Runtime, as measured on this machine, and what
it gives is distilled for the same number of epochs; then all are timed interleaved in one run, and judged on the test split.
``substitute`` chooses among all blocks of the library; ``low_rank`` is its spatial form; ``prune`` is prune_channels;
``both`` prunes to the square root of the share, and goes the rest of the way by low rank. ``glyphs`` has the shipped weights,
``resnet18`` is a narrow net of ResNet-18's shape, trained here from the seed. A seed is also that of the distillation.

``run`` appends to build/substitution.jsonl, one line a method. ``show`` prints for each model and latency the test accuracy,
its mean with a 95 % interval (Student's t), how far substitute is ahead with the interval of the paired differences, the
latency reached, and for substitute the predicted share over the measured one, and what the blocks became.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
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


def dense_model(options: argparse.Namespace, workload: Workload) -> Program:
    """The model that all methods begin with, batch norms folded."""
    if options.model == "glyphs":
        dense = workload.capture()
    else:
        torch.manual_seed(options.seed)
        model = resnet18(options.widths, 45)
        data = workload.need_data("the bench")
        weights = fit(model, data, epochs=options.epochs, batch_size=64, rate=3e-3, seed=options.seed)  # type: ignore[arg-type]
        model.load_state_dict(weights)
        dense = capture(model.eval().to(memory_format=torch.contiguous_format), (torch.randn(1, 1, 32, 32),))
    return Pipeline.parse("fold_batch_norm, functionalize_writes").run(dense, watchers=()).program


def passes_of(method: str, options: argparse.Namespace, dense_ms: float) -> str:
    """The passes of a method before distillation."""
    share = options.latency
    match method:
        case "substitute":
            how = f"epochs={options.block_epochs}, samples={options.samples}, entries={tuple(options.entries)!r}"
            return f"substitute(latency='{share}x', {how})"
        case "low_rank":
            return f"low_rank(form='spatial', latency={share})"
        case "prune":
            return f"prune_channels(latency_ms={share * dense_ms}, by='taylor', scope='isomorphic')"
        case _:
            half = share**0.5
            first = f"prune_channels(latency_ms={half * dense_ms}, by='taylor', scope='isomorphic')"
            return f"{first}, low_rank(form='spatial', latency={half})"


def run(options: argparse.Namespace) -> None:
    """All methods at one latency with one seed."""
    torch.set_num_threads(options.threads)
    workload = glyphs(examples=options.examples)
    data = workload.need_data("the bench")
    backend = find_backend(f"onnx(threads={options.threads})")
    context = Context(workload, None, backend)
    dense = dense_model(options, workload)
    dense_ms = built_times({"dense": dense}, context, "the bench")["dense"].ms.median
    distilled = f"distill(epochs={options.distill}, rate=0.003, soft=0.7, temperature=2.0, seed={options.seed})"
    rows: dict[str, dict[str, Any]] = {}
    programs = {"dense": dense}
    for method in options.methods:
        text = f"{passes_of(method, options, dense_ms)}, {distilled}"
        rows[method] = row = {"passes": text}
        try:
            outcome = Pipeline.parse(text).run(dense, workload=workload, backend=backend, watchers=())
        except BudgetError as error:
            row["missed"] = error.what
            continue
        programs[method] = outcome.program
        row["accuracy"] = data.evaluate(outcome.program, "test")
        row["became"] = [f"{c.what}: {c.value}" for step in outcome.steps for c in step.choices]
        measured = [m for step in outcome.steps for m in step.measurements if "taken" in m.of]
        row["predicted"] = next((m.predicted for m in measured if "latency" in m.figure), None)
        row["measured"] = next((m.value for m in measured if "latency" in m.figure), None)
        print(method, row["accuracy"], flush=True)
    times = built_times(programs, context, "the bench", blocks=21)
    said = {"model": options.model, "seed": options.seed, "latency": options.latency, "distill": options.distill}
    said["dense_accuracy"] = data.evaluate(dense, "test")
    ROWS.parent.mkdir(exist_ok=True)
    with ROWS.open("a") as file:
        for method, row in rows.items():
            if method in times:
                row["ratio"] = times[method].ratio(times["dense"]).median
            file.write(json.dumps(said | {"method": method} | row) + "\n")
            print(json.dumps(said | {"method": method} | row))


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
    parser.add_argument("--seed", type=int, default=0)
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
