"""One rung of one recipe: passes run, the result built for the target, and its figures measured.

An evaluator lives in a process of its own (:mod:`fxopt.automl.apart`): a pass that crashes, hangs or eats memory costs a
trial, not the search.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from fxopt.automl.rungs import Rung, fidelity
from fxopt.automl.space import Point
from fxopt.backend import Backend, find_backend
from fxopt.backend.backend import ESTIMATED_CYCLES
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.default_cache import default_cache
from fxopt.driver.evaluate import to_numpy
from fxopt.driver.intermediate_values import Exposed
from fxopt.driver.load_file import load_file
from fxopt.driver.plan import Plan, resolve
from fxopt.driver.recipe import Recipe
from fxopt.driver.successive_halving import ranked
from fxopt.ir.cost import cost
from fxopt.ir.memory_planning import plan_memory
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import sqnr
from fxopt.numerics.execute import untouched
from fxopt.numerics.module_state import copied
from fxopt.pass_manager.pipeline import Outcome, Pipeline
from fxopt.runtime.artifact import Artifact, load_for, model_bytes
from fxopt.runtime.device import cannot_time
from fxopt.runtime.interleaved import Call, time_artifacts
from fxopt.runtime.timing import Timing
from fxopt.support.machine_lock import machine
from fxopt.support.scratch import scratch_folder
from fxopt.workload import Data, Divisible
from fxopt.workload.batching import fixed_batch, in_batches
from fxopt.workload.workload import validation_batches

_BLOCKS = 7
_COMPARED = 256
"""Examples over which outputs are compared."""


@dataclass(frozen=True)
class Task:
    """The task of a search: the recipe with model, target and calibration, files of ``--load``, and the folder of artifacts."""

    recipe: Recipe
    load: tuple[str, ...]
    kept: str


class Evaluator:
    """Runs rungs. Everything is timed side by side with a reference: the captured model, built by the recipe's own backend."""

    def __init__(self, task: Task) -> None:
        """Capture the model and build the reference. Raises FxoptError."""
        for file in task.load:
            load_file(file)
        self._task = task
        self._open = contextlib.ExitStack()  # never closed: this process is killed, and the next sweeps its folder
        self._scratch = self._open.enter_context(scratch_folder())
        self._plan, self._program = resolve(task.recipe, default_cache()).capture()
        self._data = data = self._plan.workload.data
        self._first: Data | None = data.half(0) if isinstance(data, Divisible) else data
        self._second: Data | None = data.half(1) if isinstance(data, Divisible) else data
        self._before: dict[int, float] = {}
        """Metric of the original on the validation split, by the id of the data, which live as long as this evaluator."""
        self._lowered, self._reference = self._plan.lower(
            self._program, self._plan.backend, self._scratch / "reference"
        )
        self._untimed = cannot_time(self._plan.target)
        self._inputs = pytree.tree_map(to_numpy, copied((self._program.args, self._program.kwargs)))
        self._ms: float | None = None
        self._numbers = itertools.count()

    def baseline(self) -> dict[str, Any]:
        """Figures of the model as captured; ``halves`` says whether the validation split is cut."""
        figures = self._costs(self._program, self._lowered) | _of_artifact(self._reference)
        if self._untimed is None:
            timing = self._timed({"reference": self._call(self._reference)})["reference"]
            figures["latency_ms"] = self._ms = timing.ms.median
        drop: dict[str, float] = {"metric_drop": 0.0} if self._data else {"noise_db": -300.0}
        facts: dict[str, Any] = {"metric": self._data.metric if self._data else None}
        facts["value"] = self._original_metric(self._data) if self._data else None
        facts["halves"] = isinstance(self._data, Divisible)
        return {"figures": figures | drop, **facts}

    def resume(self, latency_ms: float | None) -> None:
        """Set the latency of the reference from the start of the search: others are ratios to it."""
        self._ms = latency_ms

    def run(self, point: Point, rung: Rung) -> dict[str, Any]:
        """Figures known after a rung, and its ``seconds``; with ``epoch_seconds`` after one that trains, and after the last
        ``backend``, with its fastest runtime options.
        """
        began = time.perf_counter()
        return {**self._run(point, rung), "seconds": time.perf_counter() - began}

    def _run(self, point: Point, rung: Rung) -> dict[str, Any]:
        plan = replace(self._plan, pipeline=Pipeline.parse(rung.passes), backend=find_backend(point.backend))
        if rung.name == "final":
            return self._final(point, plan)
        with machine(alone=False):
            outcome = self._rewritten(plan, verified=rung.epochs > 0)  # before any training most are given up
            program = outcome.program
            if rung.name == "size":
                return {"figures": self._costs(program, None)}
            if rung.name != "speed":
                return {"figures": self._quality(program, self._first), "epoch_seconds": _an_epoch(plan, outcome, rung)}
            folder = self._fresh("speed")
            lowered, built = plan.lower(program, plan.backend, folder)
            figures = self._costs(program, lowered) | _of_artifact(built)
        if self._untimed is None:
            _, figures["latency_ms"] = self._fastest_variant(plan.backend, folder)
        return {"figures": figures}

    def _final(self, point: Point, plan: Plan) -> dict[str, Any]:
        with machine(alone=False):
            program = self._rewritten(plan).program
            folder = self._fresh("final")
            lowered, built = plan.lower(program, plan.backend, folder)
            if not built.elsewhere:
                twin = self._fresh("exposed", make=False)
                exposed = functools.partial(Exposed, lowered, plan.backend, plan.target, built, twin)
                Fidelity(lowered, data=plan.workload.data).check(built, exposed)
            runs = None if built.elsewhere else built
            figures = self._costs(program, lowered) | _of_artifact(built)
            figures |= self._quality(program, self._data, runs)
            held_out = None
            if self._second is not None:
                held_out = self._drop(self._second, runs or program)
        kept = Path(self._task.kept) / digest_of(point)
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, kept)
        best = plan.backend
        if self._untimed is None:
            best, figures["latency_ms"] = self._fastest_variant(plan.backend, kept)
        return {"figures": figures, "backend": str(best), "kept": str(kept), "held_out": held_out}

    def _rewritten(self, plan: Plan, *, verified: bool = True) -> Outcome:
        """The passes of a plan, verified and measured as in a build, which finds these steps in the cache."""
        return plan.rewrite(self._program, plan.backend, (), verified=verified)

    def race(self, artifacts: dict[str, tuple[str, str]], blocks: int) -> dict[str, dict[str, float]]:
        """Time kept artifacts, a folder and a backend by name, side by side with the reference: milliseconds and quartiles."""
        if self._untimed is not None:
            return {}
        calls = {
            name: self._call(self._load(Path(folder), find_backend(backend)))
            for name, (folder, backend) in artifacts.items()
        }
        timings = self._timed({"reference": self._call(self._reference), **calls}, blocks)
        base = self._ms or timings["reference"].ms.median
        quartiles = {name: timings[name].ratio(timings["reference"]) for name in artifacts}
        return {
            n: {"median": q.median * base, "low": q.low * base, "high": q.high * base} for n, q in quartiles.items()
        }

    def test(self, artifacts: dict[str, tuple[str, str]]) -> dict[str, float]:
        """Loss of the metric on the test split of kept artifacts: the only time that it is used."""
        if self._data is None or self._reference.elsewhere:
            return {}
        size = fixed_batch(self._program)
        before = self._data.evaluate(in_batches(self._program, size), "test")
        loaded = {
            name: self._load(Path(folder), find_backend(backend)) for name, (folder, backend) in artifacts.items()
        }
        return {name: before - self._data.evaluate(in_batches(built, size), "test") for name, built in loaded.items()}

    def _fastest_variant(self, backend: Backend, folder: Path) -> tuple[Backend, float]:
        variants = {str(v): v for v in backend.variants()}
        calls = {name: self._call(self._load(folder, variant)) for name, variant in variants.items()}
        timings = self._timed({"reference": self._call(self._reference), **calls})
        best = ranked({name: timings[name] for name in variants})[0]
        return variants[best], self._relative(timings, best)

    def _load(self, folder: Path, backend: Backend) -> Artifact:
        return load_for(folder, self._plan.target, backend)

    def _timed(self, calls: dict[str, Call], blocks: int = _BLOCKS) -> dict[str, Timing]:
        """Times of artifacts, with exclusive use of this machine if it runs them."""
        if self._plan.target.address is not None:
            return time_artifacts(calls, blocks=blocks)
        with machine(alone=True):
            return time_artifacts(calls, blocks=blocks)

    def _relative(self, timings: dict[str, Timing], name: str) -> float:
        """Milliseconds as the ratio to the reference in this run times what that took when the search began."""
        base = self._ms or timings["reference"].ms.median
        return timings[name].ratio(timings["reference"]).median * base

    def _call(self, artifact: Artifact) -> Call:
        return artifact, *self._inputs

    def _costs(self, program: Program, lowered: Program | None) -> dict[str, float]:
        counted = cost(program)
        figures: dict[str, float] = {"macs": counted.macs, "params": counted.parameters}
        if lowered is not None:
            plan = plan_memory(lowered)
            figures["memory_bytes"] = plan.weights + plan.values
        return figures

    def _drop(self, data: Data, run: Callable[..., Any]) -> float:
        """By how much the metric on the validation split is below the original's."""
        return self._original_metric(data) - self._metric(data, run)

    def _original_metric(self, data: Data) -> float:
        if id(data) not in self._before:
            self._before[id(data)] = self._metric(data, self._program)
        return self._before[id(data)]

    def _metric(self, data: Data, run: Callable[..., Any]) -> float:
        there = placed(run, self._plan.device) if isinstance(run, Program) else contextlib.nullcontext()
        with there:
            return data.evaluate(in_batches(run, fixed_batch(self._program)), "validation")

    def _quality(self, program: Program, data: Data | None, built: Artifact | None = None) -> dict[str, float]:
        """The loss of the metric, of the artifact where there is one, and the divergence of outputs from the original's."""
        pairs = list(self._outputs(program, data))
        wanted, got = ([v for _, v in pairs] if i else [v for v, _ in pairs] for i in (0, 1))
        figures = {
            "noise_db": -min(sqnr(w, g) for w, g in zip(wanted, got, strict=True)),
            "divergence": divergence(wanted, got),
        }
        figures["noise_db"] = max(figures["noise_db"], -300.0)  # equal outputs have no noise, which has no logarithm
        if data is not None:
            figures["metric_drop"] = self._drop(data, built or program)
        return figures

    def _outputs(self, program: Program, data: Data | None) -> Iterator[tuple[list[Any], list[Any]]]:
        """Flat outputs of the original and of a program, batch by batch; on the example inputs if there are no data."""
        device = self._plan.device
        with (
            torch.no_grad(),
            placed(self._program, device), placed(program, device), untouched(self._program), untouched(program),
        ):  # fmt: skip
            if data is None:
                args, kwargs = copied((self._program.args, self._program.kwargs))
                yield tuple(pytree.tree_leaves(p(*args, **kwargs)) for p in (self._program, program))  # type: ignore[misc]
                return
            size = fixed_batch(self._program)
            for args in validation_batches(data, _COMPARED, 64):
                yield tuple(pytree.tree_leaves(in_batches(p, size)(*args)) for p in (self._program, program))  # type: ignore[misc]

    def _fresh(self, name: str, *, make: bool = True) -> Path:
        """A folder whose path was never used: a library is loaded once by its path, whatever is in the file by then."""
        for old in self._scratch.glob(f"{name}-*"):
            shutil.rmtree(old)
        folder = self._scratch / f"{name}-{next(self._numbers)}"
        if make:
            folder.mkdir(parents=True)
        return folder


def _of_artifact(built: Artifact) -> dict[str, float]:
    """Its size, and the cycles that its backend estimates, if it does."""
    cycles = built.manifest.facts.get(ESTIMATED_CYCLES)
    return {"file_bytes": model_bytes(built)} | ({"cycles": cycles} if cycles is not None else {})


def _an_epoch(plan: Plan, outcome: Outcome, rung: Rung) -> float:
    """Seconds of an epoch of all passes that train, here or when the cache stored them; 0 where none does."""
    training = {str(pass_) for pass_ in plan.pipeline.passes if fidelity(pass_) is not None}
    return sum(step.seconds for step in outcome.steps if step.text in training) / max(rung.epochs, 1)


def divergence(wanted: list[list[Any]], got: list[list[Any]]) -> float:
    """Kullback-Leibler divergence in nats of class scores [N,C], the mean over examples; else noise over signal."""
    if all(len(w) == 1 and isinstance(w[0], torch.Tensor) and w[0].dim() == 2 and w[0].shape[1] > 1 for w in wanted):
        want, have = (torch.cat([torch.as_tensor(v[0]) for v in vs]).double().log_softmax(1) for vs in (wanted, got))
        return float(F.kl_div(have, want, log_target=True, reduction="batchmean"))
    return 10 ** (-min(sqnr(w, g) for w, g in zip(wanted, got, strict=True)) / 10)


def digest_of(point: Point) -> str:
    """A name for the files of a point."""
    return hashlib.sha256(str(point).encode()).hexdigest()[:32]
