"""Blocks substituted against low rank, pruning, and two of them together, at equal measured latency.

::

    for l in 0.5 0.25; do for m in glyphs resnet18; do
        python tests/bench/substitution.py run --model $m --latency $l        # five seeds; --seeds 0 for one
    done; done
    python tests/bench/substitution.py show                                   # the table of all that was run

Each method is asked for the same share of the dense model's latency in ONNX Runtime, as measured on this machine; what all of
them give is timed interleaved in one run; then each is distilled for the same number of epochs, from each seed, and judged on
the test split. ``substitute`` chooses among all blocks of the library; ``low_rank`` is its spatial form; ``prune`` is
prune_channels; of two, the first goes to the square root of the share, and the second the rest of the way. Batch norms that are
left train along, and are folded to be timed.
``glyphs`` has the shipped weights, so its programs are made small once for all seeds; ``resnet18`` is a narrow net of ResNet-18's
shape, trained here from each seed.

Only making small and timing need a quiet machine. ``run`` keeps all of it in build/substitution and goes on where it was stopped.
``show`` prints for each model and latency the test accuracy, its mean with a 95 % interval (Student's t), how far substitute is
ahead with the interval of the paired differences, the latency reached, and for substitute the predicted share over the measured
one, and what the blocks became.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from low_rank import resnet18
from scipy.stats import t as student

from fxopt import Pipeline, Program, Workload, capture
from fxopt.backend import find_backend
from fxopt.driver.time_build import built_times
from fxopt.errors import BudgetError
from fxopt.frontend.pt2 import load_program, save_program
from fxopt.models.glyphs import glyphs
from fxopt.models.train import fit
from fxopt.pass_manager.context import Context

FOLDER = Path("build/substitution")
PAIRS = {"prune_low_rank": ("prune", "low_rank"), "substitute_prune": ("substitute", "prune")}
METHODS = ("substitute", "low_rank", "prune", *PAIRS)


def dense_model(options: argparse.Namespace, seed: int, workload: Workload) -> Program:
    """The model that all methods begin with."""
    if options.model == "glyphs":
        dense = workload.capture()
    else:
        torch.manual_seed(seed)
        model = resnet18(options.widths, 45)
        data = workload.need_data("the bench")
        weights = fit(model, data, epochs=options.epochs, batch_size=64, rate=3e-3, seed=seed)  # type: ignore[arg-type]
        model.load_state_dict(weights)
        dense = capture(model.eval().to(memory_format=torch.contiguous_format), (torch.randn(1, 1, 32, 32),))
    return Pipeline.parse("functionalize_writes").run(dense, watchers=()).program


def passes_of(method: str, options: argparse.Namespace, blocks: Path) -> str:
    """The passes of a method before distillation; trained ``blocks`` are kept in that folder."""
    trained = f"epochs={options.block_epochs}, samples={options.samples}, entries={tuple(options.entries)!r}"
    trained += f", checkpoint={str(blocks)!r}"
    texts = {
        "substitute": f"substitute(latency='%sx', {trained})",
        "low_rank": "low_rank(form='spatial', latency='%sx')",
        "prune": "prune_channels(latency='%sx', by='taylor', scope='isomorphic')",
    }
    if method in texts:
        return texts[method] % options.latency
    first, second = PAIRS[method]
    return ", ".join(texts[one] % f"{options.latency**0.5:.3f}" for one in (first, second))


def run(options: argparse.Namespace) -> None:
    """All methods at one latency, with every seed; what is there already is not done again."""
    torch.set_num_threads(options.threads)
    workload = glyphs(examples=options.examples)
    context = Context(workload, None, find_backend(f"onnx(threads={options.threads})"))
    place = FOLDER / f"{options.model}-{options.latency}"
    shared = options.model == "glyphs"
    for seed in options.seeds:
        made = place / ("weights" if shared else f"weights{seed}")
        made.mkdir(parents=True, exist_ok=True)
        make_small(made, seed, options, workload, context)
    for seed in options.seeds:
        made = place / ("weights" if shared else f"weights{seed}")
        for method in options.methods:
            judge(made, place / f"{method}-{seed}.json", method, seed, options, workload)


def make_small(place: Path, seed: int, options: argparse.Namespace, workload: Workload, context: Context) -> None:
    """Every method's program before distillation, all timed in one run beside the dense one."""
    if not (place / "dense.pt2").exists():
        save_program(dense_model(options, seed, workload), place / "dense.pt2")
    dense = load_program(place / "dense.pt2")
    new = [method for method in options.methods if not (place / f"{method}.json").exists()]
    for method in new:
        said = {"passes": passes_of(method, options, FOLDER / f"{options.model}-{place.name}-blocks")}
        began = time.perf_counter()
        try:
            outcome = Pipeline.parse(said["passes"]).run(dense, workload=workload, backend=context.backend, watchers=())
        except BudgetError as error:
            said |= {"missed": error.what}
        else:
            measured = [m for step in outcome.steps for m in step.measurements if "taken" in m.of]
            of_latency = next((m for m in measured if "latency" in m.figure), None)
            said |= {
                "seconds": time.perf_counter() - began,
                "became": [f"{c.what}: {c.value}" for step in outcome.steps for c in step.choices],
                "predicted": of_latency and of_latency.predicted,
                "measured": of_latency and of_latency.value,
            }
            save_program(outcome.program, place / f"{method}.pt2")
        (place / f"{method}.json").write_text(json.dumps(said, indent=1))
        print(options.model, options.latency, method, said.get("missed") or f"{said['seconds']:.0f} s", flush=True)
    if new or not (place / "latency.json").exists():
        fold = Pipeline.parse("fold_batch_norm")
        programs = {
            path.stem: fold.run(load_program(path), watchers=()).program for path in sorted(place.glob("*.pt2"))
        }
        times = built_times(programs, context, "the bench", blocks=41, block_ms=10.0)
        ratios = {name: times[name].ratio(times["dense"]).median for name in programs}
        (place / "latency.json").write_text(json.dumps(ratios, indent=1))
        print(ratios, flush=True)


def judge(made: Path, row: Path, method: str, seed: int, options: argparse.Namespace, workload: Workload) -> None:
    """Distil what a method made, from one seed, and write down its accuracy."""
    small = made / f"{method}.pt2"
    if row.exists():
        return
    said: dict[str, Any] = json.loads((made / f"{method}.json").read_text())
    if small.exists():
        teacher = str(made / "dense.pt2")  # or the small one, which the pipeline begins with, would be its own
        how = f"epochs={options.distill}, rate=0.003, soft=0.7, temperature=2.0, seed={seed}, teachers=({teacher!r},)"
        outcome = Pipeline.parse(f"distill({how})").run(load_program(small), workload=workload, watchers=())
        said["accuracy"] = workload.need_data("the bench").evaluate(outcome.program, "test")
        said["ratio"] = json.loads((made / "latency.json").read_text())[method]
    print(method, seed, said.get("accuracy"), flush=True)
    row.write_text(
        json.dumps({"model": options.model, "latency": options.latency, "method": method, "seed": seed} | said)
    )


def interval(values: list[float]) -> str:
    """The mean with its 95 % interval; of one value, that."""
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "-"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.4f} ± {half:.4f}"


def show() -> None:
    """The table of all that was run."""
    every = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*/*-*.json"))]
    print(
        "| model | latency asked | method | seeds | accuracy | substitute ahead by | latency | predicted ÷ measured |"
    )
    print("|---|---|---|---|---|---|---|---|")
    said = []
    for model, latency in sorted({(r["model"], r["latency"]) for r in every}):
        here = [r for r in every if (r["model"], r["latency"]) == (model, latency)]
        for cells in lines(here):
            print("|", " | ".join(map(str, (model, latency, *cells))), "|")
        forms = Counter(
            w.split(": ")[1].split("(")[0] for r in here if r["method"] == "substitute" for w in r.get("became", ())
        )
        said.append(
            f"{model} at {latency}: blocks became {', '.join(f'{name} {n} times' for name, n in forms.most_common())}"
        )
    print("", *said, sep="\n")


def lines(here: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The rows of one model and latency."""
    ours = {r["seed"]: r["accuracy"] for r in here if r["method"] == "substitute" and "accuracy" in r}
    for method in METHODS:
        rows = [r for r in here if r["method"] == method]
        done = {r["seed"]: r for r in rows if "accuracy" in r}
        ahead = [ours[s] - r["accuracy"] for s, r in done.items() if s in ours and method != "substitute"]
        predicted = [r["predicted"] / r["measured"] for r in done.values() if r.get("predicted")]
        yield (
            method,
            f"{len(done)} of {len(rows)}",
            interval([r["accuracy"] for r in done.values()]),
            interval(ahead),
            interval([r["ratio"] for r in done.values()]),
            interval(predicted),
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
