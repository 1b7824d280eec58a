"""How far a recipe stays from its limit of the metric, seed by seed, in test images: its artifacts for this machine and for AVX2.

::

    python tests/bench/recipe_margin.py models/digits.toml                      # ten seeds; about ten minutes
    python tests/bench/recipe_margin.py models/digits.toml --kernels avx2       # trained as on a machine without AVX-512
    python tests/bench/recipe_margin.py models/digits.toml --emulate Haswell    # the AVX2 artifact is run by qemu too

Each seed is given to every pass that takes one. What the passes up to the last of these make is kept in ``--work``, by text of
the passes, kernels and seed: a second run only quantizes and evaluates (and shows 0 s). Empty it when a pass's code
changed. The other passes are run for this machine and for ``x86_64_v3``, x86 before VNNI, whose int8 weights are bounded so
that every x86 processor computes the same with them.

Columns: seconds up to the end of training, MACs, the metric on validation and test images then, in float; of each target the
metric of the quantized program in torch, the bytes of the artifact, its metric in the backend's runtime, its drop from the
model as it was, in points, and how many more test images could be lost within the limit.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fxopt import Pass, Pipeline, Program
from fxopt.backend import find_backend
from fxopt.driver.lower import lower
from fxopt.driver.recipe import Recipe, read_recipe
from fxopt.frontend.pt2 import load_program, save_program
from fxopt.ir.cost import cost
from fxopt.runtime.artifact import model_bytes
from fxopt.target import find_target
from fxopt.workload import Data, Workload, find_workload

TESTS = Path(__file__).parents[1]
TARGETS = ("host", "x86_64_v3")
KERNELS = {
    "default": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
"""What the environment holds for torch to compute with the kernels of such a processor; it reads that as it is imported."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), help="(0 to 9)")
    parser.add_argument("--kernels", choices=list(KERNELS), default="default", help="of torch (%(default)s)")
    parser.add_argument("--emulate", choices=["Haswell", "Nehalem"], help="run the artifact for x86_64_v3 there too")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("build/recipe_margin"), help="(%(default)s)")
    options = parser.parse_args()
    wanted = KERNELS[options.kernels]
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=os.environ | wanted).returncode)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(options.recipe)
    bench = Bench(recipe, find_workload(recipe.model), options.kernels, options.emulate, options.work)
    rows = []
    for seed in options.seeds:
        rows.append(bench.row(seed))
        print(seed, {key: round(value, 4) for key, value in rows[-1].items()}, file=sys.stderr, flush=True)
    Console(width=220).print(bench.table(options.seeds, rows))


@dataclass(frozen=True)
class Bench:
    """One recipe under one set of kernels."""

    recipe: Recipe
    workload: Workload
    kernels: str
    emulate: str | None
    work: Path

    @property
    def data(self) -> Data:
        return self.workload.need_data("the bench")

    def row(self, seed: int) -> dict[str, float]:
        """The figures of one seed, by column."""
        passes = Pipeline.parse(self.recipe.passes).passes
        seeded = [i for i, one in enumerate(passes) if takes_seed(one)]
        split = seeded[-1] + 1 if seeded else 0
        first = Pipeline.of(*(with_seed(one, seed) for one in passes[:split]))
        trained, seconds = self.trained(first, seed)
        row = {"training s": seconds, "macs": float(cost(trained).macs)}
        row |= {split: self.data.evaluate(trained, split) for split in ("validation", "test")}
        backend = find_backend(self.recipe.backend)
        for name in TARGETS:
            target = find_target(name)
            where: dict[str, Any] = {"workload": self.workload, "target": target, "backend": backend}
            program = Pipeline.of(*passes[split:]).run(trained, watchers=(), **where).program
            row[f"{name} program"] = self.data.evaluate(program, "test")
            with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
                place = Path(folder) / "artifact"
                place.mkdir()
                _, artifact = lower(program, backend, target, place, workload=self.workload)
                row[f"{name} bytes"] = float(model_bytes(artifact))
                row |= self.judged(name, self.data.evaluate(artifact, "test"))
                if self.emulate and name != "host":
                    row |= self.judged(self.emulate, self.evaluate_there(Path(folder)))
        return row

    def trained(self, passes: Pipeline, seed: int) -> tuple[Program, float]:
        """What the passes make of the model, from ``work`` if it is there, and the seconds that it took to make."""
        digest = hashlib.sha256(f"{self.recipe.model} {passes}".encode()).hexdigest()[:12]
        file = self.work / f"{self.workload.name}-{self.kernels}-{seed}-{digest}.pt2"
        seconds = 0.0
        if not file.exists():
            start = time.perf_counter()
            where: dict[str, Any] = {"workload": self.workload, "backend": find_backend(self.recipe.backend)}
            target = find_target(self.recipe.target)
            save_program(passes.run(self.workload.capture(), watchers=(), target=target, **where).program, file)
            seconds = time.perf_counter() - start
        return load_program(file), seconds

    def judged(self, name: str, metric: float) -> dict[str, float]:
        """The metric of an artifact, its drop in points, and the test images between that and the limit."""
        drop = self.before - metric
        found = {f"{name} artifact": metric, f"{name} drop": 100 * drop}
        if self.recipe.budget.metric_drop is not None:
            found[f"{name} margin"] = (self.recipe.budget.metric_drop - drop) * self.images
        return found

    @functools.cached_property
    def before(self) -> float:
        """The metric of the model as it was, on test images."""
        return self.data.evaluate(self.workload.capture(), "test")

    @functools.cached_property
    def images(self) -> int:
        """How many test images there are."""
        return sum(len(args[0]) for args, _ in self.data.batches("test", batch_size=64))

    def evaluate_there(self, folder: Path) -> float:
        """The metric of the artifact in ``folder`` under the emulated processor."""
        inputs = torch.cat([args[0] for args, _ in self.data.batches("test", batch_size=64)])
        np.savez(folder / "inputs.npz", inputs.numpy())
        command: list[str | Path] = [sys.executable, TESTS / "emulated_x86.py", str(self.emulate)]
        subprocess.run([*command, TESTS / "cases/run_artifacts.py", "there", folder], check=True)
        with np.load(folder / "artifact-there.npz") as outputs:
            (scores,) = (torch.from_numpy(outputs[name]) for name in outputs.files)
        rest = iter(scores)
        return self.data.evaluate(lambda images: torch.stack([next(rest) for _ in images]), "test")

    def table(self, seeds: list[int], rows: list[dict[str, float]]) -> Table:
        limits = {key: value for key, value in dataclasses.asdict(self.recipe.budget).items() if value is not None}
        title = f"{self.workload.name}, {self.kernels} kernels; before {self.before:.4f}; limits {limits}"
        table = Table(title=title, box=box.SIMPLE)
        for column in ("seed", *rows[0]):
            table.add_column(column.replace(" ", "\n", 1), justify="right")
        for seed, row in zip(seeds, rows, strict=True):
            table.add_row(str(seed), *(shown(key, value) for key, value in row.items()))
        table.add_section()
        for name, of in (("min", min), ("median", statistics.median), ("max", max)):
            table.add_row(name, *(shown(key, of([row[key] for row in rows])) for key in rows[0]))
        return table


def takes_seed(pass_: Pass) -> bool:
    return any(field.name == "seed" for field in dataclasses.fields(pass_))


def with_seed(pass_: Pass, seed: int) -> Pass:
    return dataclasses.replace(pass_, **{"seed": seed}) if takes_seed(pass_) else pass_


def shown(column: str, value: float) -> str:
    digits = {"s": 0, "macs": 0, "bytes": 0, "margin": 1, "drop": 2}.get(column.split()[-1], 4)
    return f"{value:,.{digits}f}"


if __name__ == "__main__":
    main()
