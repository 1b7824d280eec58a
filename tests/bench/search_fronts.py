"""The front of a search beside every recipe of the repository that was written by hand, on models that none was written for.

::

    python tests/bench/search_fronts.py small_vit --seconds 900
    python tests/bench/search_fronts.py narrow_resnet18 --seconds 900
    python tests/bench/search_fronts.py small_vit --seconds 300 --examples 2000     # less to train on, for both sides

By hand are all recipes of models/*.toml, for this model in place of theirs, and exact passes alone and int8 on each backend.
``small_vit`` has the shipped weights; ``narrow_resnet18`` is a net of ResNet-18's shape, trained here once. The search has its
default space and the time that is asked for; what all builds by hand took is printed beside it.

Whatever both give is built by `fxopt build`, timed in one interleaved run with each option of its runtime, of which the
fastest counts, and evaluated on the validation and the test split. The table has a line each: losses, milliseconds, bytes,
and by whom it is dominated in loss on validation data, latency and bytes. A recipe that cannot be built says why.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fxopt
from fxopt.automl.pareto import dominates
from fxopt.automl.wanted import wanted
from fxopt.backend import find_backend
from fxopt.driver.load_file import load_file
from fxopt.driver.recipe import read_recipe
from fxopt.errors import FxoptError
from fxopt.models.glyphs import glyphs
from fxopt.models.train import fit
from fxopt.models.weights import save_weights, trained
from fxopt.runtime.artifact import Artifact, load_for, model_bytes
from fxopt.runtime.interleaved import Call, time_artifacts
from fxopt.target import find_target
from fxopt.workload import Workload, find_workload

sys.path.append(str(Path(__file__).parent))  # also where a process of the search loads this file
from low_rank import resnet18

ROOT = Path(__file__).parent.parent.parent
WEIGHTS = ROOT / "build" / "search_fronts" / "narrow_resnet18.safetensors"
WIDTHS, CLASSES, EPOCHS = [24, 48, 96, 192], 45, 10


def narrow_resnet18(*, examples: int = 9000) -> Workload:
    """The characters of `glyphs`, and a narrow net of ResNet-18's shape (1.6 M parameters)."""
    drawn, net = glyphs(examples=examples), functools.partial(resnet18, WIDTHS, CLASSES)
    model = functools.partial(trained, net, WEIGHTS, command=f"python {Path(__file__).name} narrow_resnet18")
    return Workload(name="narrow_resnet18", model=model, inputs=drawn.inputs, data=drawn.data)


def train_once() -> None:
    """Train the net, if its weights are not there."""
    if WEIGHTS.exists():
        return
    torch.manual_seed(0)
    model = resnet18(WIDTHS, CLASSES)
    weights = fit(model, glyphs().need_data("the bench"), epochs=EPOCHS, batch_size=64, rate=3e-3, seed=0)
    model.load_state_dict(weights)
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_weights(WEIGHTS, model, {"epochs": str(EPOCHS)})


@dataclass
class Row:
    """A recipe, and what it measured."""

    name: str
    recipe: fxopt.Recipe
    by_hand: bool
    refused: str | None = None
    folder: Path = Path()
    drop: float = 0.0
    test_drop: float = 0.0
    ms: float = 0.0
    size: int = 0

    @property
    def values(self) -> tuple[float, ...]:
        """What is compared."""
        return self.drop, self.ms, float(self.size)


def by_hand(model: str, backends: tuple[str, ...]) -> list[Row]:
    """The recipes of the repository, for another model."""
    rows = [
        Row(path.stem, fxopt.Recipe(model, recipe.passes, recipe.backend), by_hand=True)
        for path in sorted((ROOT / "models").glob("*.toml"))
        for recipe in [read_recipe(path)]
    ]
    for name, passes in {"exact": (), "int8": ("quantize",)}.items():
        for backend in backends:
            recipe = fxopt.Recipe(model, ("fold_batch_norm", "clean_up", *passes), backend)
            rows.append(Row(f"{name}, {backend}", recipe, by_hand=True))
    return rows


def build(row: Row, folder: Path) -> None:
    """Build a recipe, or say why that is not possible."""
    try:
        row.folder = Path(fxopt.build(row.recipe, folder, measure=False).folder or folder)
    except FxoptError as error:
        row.refused = str(error).splitlines()[0]


def measure(rows: list[Row], model: str, blocks: int) -> None:
    """Time all artifacts in one run, and evaluate them."""
    workload, target = find_workload(model), find_target("host")
    program, data = workload.capture(), workload.need_data("the bench")
    inputs = tuple(x.numpy() for x in program.args)
    calls: dict[tuple[int, str], Call] = {}
    artifacts: list[Artifact] = []
    for i, row in enumerate(rows):
        artifacts.append(load_for(row.folder, target))
        for variant in find_backend(artifacts[i].manifest.backend).variants():
            calls[i, str(variant)] = load_for(row.folder, target, variant), inputs, {}
    timings = time_artifacts({f"{i} {v}": call for (i, v), call in calls.items()}, blocks=blocks)
    before = {split: data.evaluate(program, split) for split in ("validation", "test")}
    for i, (row, artifact) in enumerate(zip(rows, artifacts, strict=True)):
        row.ms = min(timings[f"{n} {v}"].ms.median for n, v in calls if n == i)
        row.drop = before["validation"] - data.evaluate(artifact, "validation")
        row.test_drop = before["test"] - data.evaluate(artifact, "test")
        row.size = model_bytes(artifact)


def show(rows: list[Row], drop: float, said: str) -> None:
    """The table, and who is ahead of whom among those that keep the limit."""
    found = [row for row in rows if row.refused is None]
    table = Table(title=said, title_justify="left")
    for column in ("recipe", "drop", "on test", "ms", "bytes", "dominated by"):
        table.add_column(column, justify="left" if column in ("recipe", "dominated by") else "right")
    for row in sorted(found, key=lambda r: r.values):
        above = [
            r.name for r in found if r.by_hand != row.by_hand and r.drop <= drop and dominates(r.values, row.values)
        ]
        late = "" if row.drop <= drop else " (misses the limit)"
        table.add_row(
            row.name + late,
            f"{row.drop:.4f}",
            f"{row.test_drop:.4f}",
            f"{row.ms:.4f}",
            f"{row.size:_}",
            ", ".join(above),
        )
    console = Console(width=130)
    console.print(table)
    for row in (row for row in rows if row.refused is not None):
        console.print(f"{row.name}: {row.refused}", markup=False)
    kept = {side: [r for r in found if r.by_hand == side and r.drop <= drop] for side in (True, False)}
    for side, name in ((True, "by hand"), (False, "on the front")):
        behind = sum(any(dominates(o.values, r.values) for o in kept[not side]) for r in kept[side])
        console.print(f"{name}: {len(kept[side])} keep the limit, {behind} of them dominated by the others")


def main() -> None:
    """Read the command line, search, build, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("small_vit", "narrow_resnet18"))
    parser.add_argument("--seconds", type=float, default=900, help="of the search (%(default)s)")
    parser.add_argument("--drop", type=float, default=0.01, help="limit of both sides (%(default)s)")
    parser.add_argument("--examples", type=int, default=9000, help="of the training split (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=11, help="of the timing (%(default)s)")
    options = parser.parse_args()
    load_file(__file__)
    if options.model == "narrow_resnet18":
        train_once()
    model = f"{options.model}(examples={options.examples})"
    out = ROOT / "build" / "search_fronts" / options.model
    shutil.rmtree(out, ignore_errors=True)
    want = wanted(
        fxopt.Recipe(model, backend="fastest"), limits={"drop": options.drop}, load=[__file__],
        seconds=options.seconds, seed=options.seed,
    )  # fmt: skip
    report = fxopt.search(want, out / "search", progress=lambda p: print(".", end="", flush=True))
    print()
    began = time.perf_counter()
    rows = by_hand(model, want.space.backends)
    for i, row in enumerate(rows):
        build(row, out / "by_hand" / str(i))
    seconds = time.perf_counter() - began
    for i, answer in enumerate(report.front, 1):
        rows.append(Row(f"front {i:02}", read_recipe(out / "search" / answer.recipe), by_hand=False))
        build(rows[-1], out / "front" / str(i))
        print(rows[-1].name, ", ".join(answer.passes), "|", answer.backend)
    measure([row for row in rows if row.refused is None], model, options.blocks)
    said = f"{model}: {report.trials} trials in {report.seconds:.0f} s; all by hand in {seconds:.0f} s"
    show(rows, options.drop, said)


if __name__ == "__main__":
    main()
