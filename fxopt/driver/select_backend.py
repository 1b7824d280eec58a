"""Choosing a backend by measurement: the fastest candidate within the recipe's budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils import _pytree as pytree

from fxopt.driver.budget import budget_lines
from fxopt.driver.candidates import Candidate, candidates_of
from fxopt.driver.evaluate import to_numpy
from fxopt.driver.plan import Plan
from fxopt.driver.report import BackendChoice, Latency, TriedCandidate
from fxopt.driver.successive_halving import race, ranked
from fxopt.errors import BackendError
from fxopt.ir.cost import cost
from fxopt.ir.program import Program
from fxopt.numerics.module_state import copied
from fxopt.pass_manager.step import Watcher
from fxopt.runtime.artifact import model_bytes
from fxopt.runtime.interleaved import Call, time_artifacts
from fxopt.workload.batching import fixed_batch, in_batches


def choose(
    plan: Plan, program: Program, watchers: tuple[Watcher, ...], scratch: Path
) -> tuple[Candidate, BackendChoice]:
    """Try the recipe with all backends of the plan; return the candidate to build, and all those tried, for the report.

    Each backend runs the whole recipe, since quantization depends on it, with a float program besides the quantized one.
    All that agree with their program are timed side by side on the example inputs. The fastest wins whose metric on the
    validation split, file size and MACs are within the budget; of equally fast ones the first, which has the plainest
    options. Raises PassError, and BackendError that lists every candidate with its reason where all are out.
    """
    tried: list[Candidate] = []
    for i, backend in enumerate(plan.candidates):
        tried += candidates_of(backend, plan, program, watchers, scratch / str(i))
    running = {str(candidate): candidate for candidate in tried if candidate.refused is None}
    if running:
        calls = {name: _call(candidate, program) for name, candidate in running.items()}
        timings = race(calls, lambda names, blocks: time_artifacts({n: calls[n] for n in names}, blocks=blocks))
        for name, timing in timings.items():
            running[name].timing = timing
        holds = _BudgetCheck(plan, program)
        for name in ranked(timings):
            if holds(running[name]):
                return _chosen(running[name], tried)
    reasons = [f"    {candidate}: {candidate.refused}".replace("\n", "\n      ") for candidate in tried]
    absent = all(backend.missing() for backend in plan.candidates)
    raise BackendError(
        f"{plan.backend}: "
        + ("no backend is installed:\n" if absent else "every candidate is refused:\n")
        + "\n".join(reasons)
    )


class _BudgetCheck:
    """The budget of the recipe without latency, which the fastest keeps or none does; misses become reasons."""

    def __init__(self, plan: Plan, program: Program) -> None:
        self._budget = replace(plan.recipe.budget, latency_ms=None)
        self._size = fixed_batch(program)
        self._data = plan.workload.data if self._budget.metric_drop is not None else None
        self._before = self._metric(program) if self._data is not None else None

    def _metric(self, run: Callable[..., Any]) -> float:
        assert self._data is not None
        return self._data.evaluate(in_batches(run, self._size), "validation")

    def __call__(self, candidate: Candidate) -> bool:
        assert candidate.artifact is not None
        assert candidate.outcome is not None
        reached: dict[str, float | None] = {
            "file_bytes": model_bytes(candidate.artifact),
            "macs": cost(candidate.outcome.program).macs,
        }
        if self._before is not None:
            candidate.metric = self._metric(candidate.artifact)
            reached["metric_drop"] = self._before - candidate.metric
        lines = budget_lines(self._budget, reached)
        candidate.refused = "; ".join(line.text for line in lines if not line.met) or None
        return candidate.refused is None


def _call(candidate: Candidate, program: Program) -> Call:
    args, kwargs = pytree.tree_map(to_numpy, copied((program.args, program.kwargs)))
    assert candidate.artifact is not None
    return candidate.artifact, args, kwargs


def _chosen(best: Candidate, tried: list[Candidate]) -> tuple[Candidate, BackendChoice]:
    """The candidate to build, and the report of the choice."""
    rows = sorted(tried, key=lambda c: c.timing.ms.median if c.timing else float("inf"))
    account = BackendChoice(chosen=str(best), why=_why(best, tried), tried=[_row(candidate) for candidate in rows])
    for candidate in tried:
        candidate.artifact = None  # frees the loaded models: they would slow whatever is timed next
    return best, account


def _why(best: Candidate, tried: list[Candidate]) -> str:
    """One sentence: its latency, that of the best of other backends or programs, and how many faster ones are out."""
    assert best.timing is not None
    text = f"{best.timing.ms.median:.3g} ms a call"
    others = [
        c for c in tried if c.timing and not c.refused and (c.backend.name, c.form) != (best.backend.name, best.form)
    ]
    if others:
        second = min(others, key=lambda c: c.timing.ms.median if c.timing else 0.0)
        assert second.timing is not None
        text += f"; {second} takes {second.timing.ms.median:.3g} ms"
    missed = [c for c in tried if c.timing and c.refused]
    return text + (f"; {len(missed)} faster miss the budget" if missed else "")


def _row(candidate: Candidate) -> TriedCandidate:
    steps = candidate.outcome.steps if candidate.outcome and candidate.form == "float" else None
    return TriedCandidate(
        candidate=str(candidate), backend=str(candidate.backend), form=candidate.form,
        latency=Latency.of(candidate.timing) if candidate.timing else None,
        agreement=candidate.agreement, metric=candidate.metric, refused=candidate.refused,
        passes=None if steps is None else [step.text for step in steps],
    )  # fmt: skip
