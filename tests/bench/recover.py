"""What training wins back: after pruning, with and without a teacher, and down to a small artifact in int8.

    python tests/bench/recover.py [--sections prune small teacher] [--models digits glyphs] [--seeds 5] [--threads 2]

Three tables, all on held-out test images, written to build/recover.md:

prune    a quarter of the MACs is left: top-1 before any training, after fine-tuning, and after distillation from the model
         as it was.
small    the shipped recipes, which prune, factorize, distill and quantize: the artifact against the ONNX model of the
         original in float32, by size of the file and by latency of one image in ONNX Runtime on one thread and on two,
         interleaved in one run.
teacher  the same training with a teacher and without, over several seeds: mean ± standard deviation, and the same of
         the difference seed by seed. A small network from its initial weights, taught by the shipped one; and that one
         with a tenth of its MACs, taught by what it was.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from fxopt import Pipeline, Program
from fxopt.backend import find_backend
from fxopt.driver.lower import lower
from fxopt.driver.recipe import read_recipe
from fxopt.ir.cost import cost
from fxopt.models.nets import CharacterNet
from fxopt.runtime.artifact import model_bytes
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host, usable_cores
from fxopt.workload import Workload, find_workload

RECIPES = Path(__file__).parents[2] / "models"
TAUGHT = "temperature=2.0, soft=0.7"
"""As in the shipped recipes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", default=["prune", "small", "teacher"], choices=list(SECTIONS))
    parser.add_argument("--models", nargs="+", default=["digits", "glyphs"], help="of prune and small (%(default)s)")
    parser.add_argument("--macs", type=float, default=0.25, help="share of the MACs that prune leaves (%(default)s)")
    parser.add_argument("--epochs", type=int, help="of all trainings; default: 20 and 8 of prune, 10 and 6 of teacher")
    parser.add_argument("--seeds", type=int, default=5, help="of teacher (%(default)s)")
    parser.add_argument("--examples", type=int, default=3000, help="training images of teacher (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/recover.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines: list[str] = []
    for section in options.sections:
        columns, rows = SECTIONS[section]
        lines += [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
        for row in rows(options):
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
        lines.append("")
    print("\n" + "\n".join(lines))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text("\n".join(lines))


def prune(options: argparse.Namespace) -> Iterable[list[str]]:
    for name in options.models:
        workload = find_workload(name)
        dense, start = workload.capture(), time.perf_counter()
        cut = f"prune_channels(macs={options.macs}, scope='isomorphic', by='taylor')"
        epochs = options.epochs or {"digits": 20}.get(name, 8)
        ways = ("", f", finetune(epochs={epochs}, rate=3e-3)", f", distill(epochs={epochs}, rate=3e-3, {TAUGHT})")
        pruned, tuned, taught = (run(cut + way, dense, workload) for way in ways)
        left, before, after = cost(taught).macs / cost(dense).macs, top1(dense, workload), top1(taught, workload)
        accuracies = [f"{v:.4f}" for v in (before, top1(pruned, workload), top1(tuned, workload), after)]
        yield [name, f"{left:.3f}", *accuracies, points(before - after), f"{time.perf_counter() - start:.0f}"]


def small(options: argparse.Namespace) -> Iterable[list[str]]:
    for name in options.models:
        recipe, start = read_recipe(RECIPES / f"{name}.toml"), time.perf_counter()
        workload = find_workload(recipe.model)
        dense = workload.capture()
        passes = Pipeline.parse(recipe.passes)
        done = passes.run(dense, workload=workload, watchers=(), backend=find_backend("onnx"), target=host()).program
        seconds = time.perf_counter() - start
        for threads in range(1, min(2, usable_cores()) + 1):
            with tempfile.TemporaryDirectory() as folder:
                models = {}
                for key, program in (("dense", dense), ("small", done)):
                    place = Path(folder) / key
                    place.mkdir()
                    backend = find_backend(f"onnx(threads={threads})")
                    _, models[key] = lower(program, backend, host(), place, workload=workload)
                runs = {key: functools.partial(m, *(a.numpy() for a in dense.args)) for key, m in models.items()}
                times = interleave(runs, blocks=31)
                sizes = {key: model_bytes(m) for key, m in models.items()}
                before, after = (top1(m, workload) for m in models.values())
            left = cost(done).macs / cost(dense).macs
            cells = [f"{before:.4f}", f"{after:.4f}", points(before - after), f"{left:.3f}"]
            cells += [f"{sizes['small']:,}", f"{sizes['dense'] / sizes['small']:.1f}"]
            cells += [str(times["small"].ms), str(times["dense"].ratio(times["small"]))]
            yield [name, str(threads), *cells, f"{seconds:.0f}"]


def teacher(options: argparse.Namespace) -> Iterable[list[str]]:
    known = f"glyphs(examples={options.examples})"
    large = find_workload(known)
    cut = "prune_channels(macs=0.1, scope='isomorphic', by='taylor'), "

    def student(seed: int) -> tuple[Workload, Program]:
        torch.manual_seed(seed)
        net = CharacterNet(45, widths=(16, 24, 48), depth=(1, 1, 1), stem_pool=True).eval()
        workload = Workload(name="student", model=lambda: net, inputs=large.inputs, data=large.data)
        return workload, workload.capture()

    dense = large.capture()
    cases: dict[str, tuple[Callable[[int], tuple[Workload, Program]], str, str, int]] = {
        "student from initial weights": (student, "", f"teachers=({known!r},), ", options.epochs or 10),
        "after pruning": (lambda seed: (large, dense), cut, "", options.epochs or 6),
    }
    for title, (make, first, who, epochs) in cases.items():
        found: dict[str, list[float]] = {"alone": [], "taught": []}
        for seed in range(options.seeds):
            workload, program = make(seed)
            how = f"epochs={epochs}, rate=5e-3, seed={seed}"
            for key, text in (("alone", f"finetune({how})"), ("taught", f"distill({who}{how}, {TAUGHT})")):
                found[key].append(top1(run(first + text, program, workload), workload))
            print(title, seed, {key: f"{values[-1]:.4f}" for key, values in found.items()}, flush=True)
        gains = [b - a for a, b in zip(found["alone"], found["taught"], strict=True)]
        won = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        yield [title, str(epochs), *(spread(v) for v in (found["alone"], found["taught"], gains)), won]


def run(passes: str, program: Program, workload: Workload) -> Program:
    return Pipeline.parse(f"fold_constants, {passes}").run(program, workload=workload, watchers=()).program


def top1(model: Callable[..., object], workload: Workload) -> float:
    return workload.need_data("the bench").evaluate(model, "test")


def points(share: float) -> str:
    return f"{100 * share:.2f}"


def spread(shares: list[float]) -> str:
    """Mean ± standard deviation, in points."""
    deviation = statistics.stdev(shares) if len(shares) > 1 else 0.0
    return f"{100 * statistics.mean(shares):.2f} ± {100 * deviation:.2f}"


SECTIONS: dict[str, tuple[tuple[str, ...], Callable[[argparse.Namespace], Iterable[list[str]]]]] = {
    "prune": (
        ("model", "MACs left", "dense", "pruned", "fine-tuned", "distilled", "points lost", "seconds"),
        prune,
    ),
    "small": (
        ("recipe", "threads", "dense", "int8 in ONNX Runtime", "points lost", "MACs left", "bytes", "file ×"
         " smaller", "ms an image", "× faster than dense fp32", "seconds of passes"),
        small,
    ),
    "teacher": (
        ("glyphs", "epochs", "labels alone", "with teacher", "gain, seed by seed", "seeds won"),
        teacher,
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
