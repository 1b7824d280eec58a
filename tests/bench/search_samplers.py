"""The search against random search and against a sampler without rungs or constraints, on a table of recipes, over many seeds.

::

    python tests/bench/search_samplers.py tabulate --table digits.jsonl     # every recipe of a small space, up every rung
    python tests/bench/search_samplers.py compare --table digits.jsonl      # 50 seeds on the table; about ten minutes

The space is digits with channels cut to one of seven shares of the MACs, three low ranks before or after that, six epochs
of distillation, int8 or float: every combination is a row with its figures and seconds at each rung. ``tabulate`` goes on
where it was stopped. ``compare`` runs the search's own worker with the table in place of the evaluator, and beside it

* ``random``: recipes drawn evenly, each run to its end;
* ``after``: TPE over the objectives alone, each run to its end, what breaks a limit sorted out afterwards, which is how
  Olive searches.

Columns: feasible hypervolume (of drop, MACs and bytes, below the limits) after so many trials and after so many seconds, as
a share of what the whole table reaches; trials and seconds to the first recipe that keeps the limits; in how many seeds the
search was ahead, and the p-value of the sign test. Seconds are those of the table, so the machine's load does not count;
a last rung goes on from the training of those before, so the others are charged for the longest of these too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from fxopt.automl import account
from fxopt.automl.apart import TrialRefused
from fxopt.automl.evaluator import Evaluator, Task
from fxopt.automl.goals import Goals, Limit
from fxopt.automl.read_space import read_space
from fxopt.automl.records import Record
from fxopt.automl.rungs import Rung, ladder
from fxopt.automl.space import Point, Space
from fxopt.automl.study import Study
from fxopt.automl.until import Until
from fxopt.automl.worker import Worker
from fxopt.driver.recipe import Recipe
from fxopt.errors import FxoptError

SHARES = (0.12, 0.16, 0.22, 0.3, 0.42, 0.6, 0.85)
SEARCH = {
    "passes": ["prune_channels", "low_rank", "distill", "quantize"],
    "prune_channels": {"macs": list(SHARES), "by": "taylor", "scope": "isomorphic"},
    "low_rank": {"form": "channel", "macs": [0.5, 0.7, 0.9]},
    "distill": {"epochs": 6, "rate": 3e-3, "soft": 0.7, "temperature": 2.0},
    "quantize": {"calibration": "min_max"},
}
GOALS = Goals((Limit("metric_drop", 0.02), Limit("macs", 0.4, relative=True)), ("metric_drop", "macs", "file_bytes"))
TRIALS, BUDGETS = (10, 20, 40, 80), (60, 120, 240, 480)


class Every:
    """Answers a space's questions with every combination in turn: an odometer over the choices that it meets."""

    def __init__(self) -> None:
        self._digits: list[int] = []
        self._sizes: list[int] = []
        self._at = 0

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """The choice of this turn."""
        if self._at == len(self._digits):
            self._digits.append(0)
            self._sizes.append(len(choices))
        self._at += 1
        return choices[self._digits[self._at - 1]]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """No interval is in this space."""
        raise AssertionError(name)

    def points(self, space: Space) -> Any:
        """Every point of the space, once."""
        while True:
            self._at = 0
            yield space.suggest(self)
            del self._digits[self._at :], self._sizes[self._at :]
            while self._digits and self._digits[-1] == self._sizes[-1] - 1:
                self._digits.pop()
                self._sizes.pop()
            if not self._digits:
                return
            self._digits[-1] += 1


def space_of() -> Space:
    """The space of the table."""
    return read_space(SEARCH, ("onnx",))


def tabulate(table: Path) -> None:
    """Run every point up every rung; append a line for each."""
    torch.set_num_threads(1)
    done = {row["point"] for row in map(json.loads, table.read_text().splitlines())} if table.exists() else set()
    space = space_of()
    with tempfile.TemporaryDirectory() as kept:
        evaluator = Evaluator(Task(Recipe("digits"), (), kept))
        if "original" not in done:
            _append(table, {"point": "original", "figures": evaluator.baseline()["figures"]})
        points = list(Every().points(space))
        for i, point in enumerate(points, 1):
            if str(point) in done:
                continue
            rungs: dict[str, Any] = {}
            for rung in ladder(point, space):
                began = time.perf_counter()
                try:
                    figures = evaluator.run(point, rung)["figures"]
                except FxoptError as error:
                    rungs[rung.name] = {"refused": str(error)}
                    break
                rungs[rung.name] = {"figures": figures, "seconds": time.perf_counter() - began}
            _append(table, {"point": str(point), "rungs": rungs})
            print(f"{i} of {len(points)}: {point}", flush=True)


def _append(table: Path, row: dict[str, Any]) -> None:
    with table.open("a") as file:
        file.write(json.dumps(row) + "\n")


class TableApart:
    """In place of the evaluator's process: figures of the table, and the seconds they would have taken."""

    def __init__(self, rows: dict[str, Any]) -> None:
        self._rows = rows
        self.seconds = 0.0

    def call(self, method: str, point: Point, rung: Rung, **_: Any) -> dict[str, Any]:
        """What the evaluator gave for a rung."""
        row = self._rows[str(point)]["rungs"][rung.name]
        if "refused" in row:
            raise TrialRefused(row["refused"])
        self.seconds += row["seconds"]
        answer = {"figures": dict(row["figures"]), "seconds": row["seconds"]}
        return {**answer, "backend": point.backend, "kept": None, "held_out": None}


Trace = list[tuple[int, float, Record]]
"""Trials in order: how many, the seconds until then, and what came of it."""


def ours(rows: dict[str, Any], original: dict[str, float], seed: int) -> Trace:
    """The search's own worker, on the table."""
    space, apart, trace = space_of(), TableApart(rows), []
    presets = [Record(passes=p.passes, backend=p.backend, preset=name) for name, p in _presets(space)]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        study = Study(f"sqlite:///{folder}/study.db", "table", len(GOALS.objectives), Path(folder))
        study.begin({}, lambda: {"figures": original})
        worker = Worker(study, space, GOALS, presets, apart, seed, Path(folder))  # type: ignore[arg-type]
        worker.run(Until(trials=max(TRIALS)), lambda r: trace.append((len(trace) + 1, apart.seconds, r)))
    return trace


def _presets(space: Space) -> list[tuple[str, Point]]:
    exact = [str(p.cls()) for p in space.at("exact")]
    return [("exact", Point(tuple(exact), "onnx")), ("quantize", Point((*exact, "quantize"), "onnx"))]


def others(rows: dict[str, Any], seed: int, sampler: optuna.samplers.BaseSampler) -> Trace:
    """A sampler of optuna's over the objectives, each recipe run to its end."""
    space, apart, trace = space_of(), TableApart(rows), []
    study = optuna.create_study(directions=["minimize"] * len(GOALS.objectives), sampler=sampler)
    for number in range(1, max(TRIALS) + 1):
        trial = study.ask()
        point = space.suggest(trial)
        final = ladder(point, space)[-1]
        record = Record(passes=point.passes, backend=point.backend)
        try:
            record.figures, record.why = apart.call("run", point, final)["figures"], "done"
            apart.seconds += rows[str(point)]["rungs"].get("train-3", {"seconds": 0.0})["seconds"]
            study.tell(trial, GOALS.values(record.figures))
        except TrialRefused:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        trace.append((number, apart.seconds, record))
    return trace


def _shares(trace: Trace, original: dict[str, float], whole: float) -> dict[str, float]:
    """The figures of a run that are compared."""
    found: dict[str, float] = {}
    for count in TRIALS:
        found[f"{count} trials"] = account.volume([r for n, _, r in trace if n <= count], GOALS, original) / whole
    for seconds in BUDGETS:
        found[f"{seconds} s"] = account.volume([r for _, s, r in trace if s <= seconds], GOALS, original) / whole
    first = next(((n, s) for n, s, r in trace if account.done([r], GOALS, original)), (max(TRIALS) + 1, trace[-1][1]))
    return found | {"first, trials": first[0], "first, s": first[1]}


def compare(table: Path, seeds: int) -> None:
    """Print the medians of each way, and the sign tests of the search against the others."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = {row["point"]: row for row in map(json.loads, table.read_text().splitlines())}
    original = rows.pop("original")["figures"]
    finals = [row["rungs"]["final"]["figures"] for row in rows.values() if "figures" in row["rungs"].get("final", {})]
    finals = [Record(passes=(), backend="onnx", why="done", figures=figures) for figures in finals]
    whole = account.volume(finals, GOALS, original)
    feasible = len(account.done(finals, GOALS, original))
    print(f"{len(rows)} recipes, {feasible} keep the limits: {', '.join(map(str, GOALS.limits))}")
    runs: dict[str, list[dict[str, float]]] = {"fxopt": [], "after": [], "random": []}
    for seed in range(seeds):
        tpe = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        runs["fxopt"].append(_shares(ours(rows, original, seed), original, whole))
        runs["after"].append(_shares(others(rows, seed, tpe), original, whole))
        runs["random"].append(_shares(others(rows, seed, optuna.samplers.RandomSampler(seed)), original, whole))
        print(f"seed {seed}", file=sys.stderr, flush=True)
    shown = Table(title=f"{seeds} seeds; hypervolume as a share of the table's", title_justify="left")
    for column in ("", *runs, "ahead of after", "ahead of random"):
        shown.add_column(column, justify="left" if not column else "right")
    for what in runs["fxopt"][0]:
        medians = [f"{statistics.median(run[what] for run in of):.3f}" for of in runs.values()]
        signs = [_sign(what, runs["fxopt"], runs[other]) for other in ("after", "random")]
        shown.add_row(what, *medians, *signs)
    Console(width=120).print(shown)


def _sign(what: str, mine: list[dict[str, float]], theirs: list[dict[str, float]]) -> str:
    less = what.startswith("first")
    pairs = [(a[what], b[what]) for a, b in zip(mine, theirs, strict=True) if a[what] != b[what]]
    ahead = sum((a < b) if less else (a > b) for a, b in pairs)
    return f"{ahead} of {len(pairs)}, p {binomtest(ahead, len(pairs)).pvalue:.1g}" if pairs else "equal"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tabulate", "compare"])
    parser.add_argument("--table", type=Path, default=Path("search_table.jsonl"))
    parser.add_argument("--seeds", type=int, default=50)
    options = parser.parse_args()
    if options.what == "tabulate":
        tabulate(options.table)
    else:
        compare(options.table, options.seeds)


if __name__ == "__main__":
    main()
