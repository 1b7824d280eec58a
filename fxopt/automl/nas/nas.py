"""An architecture search: one training of a supernet, then for each target the best sub-networks within its limits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fxopt.automl.need_optuna  # noqa: F401  (first: what is below imports optuna)
from fxopt import registry
from fxopt.automl.nas.asked import Asked, asked
from fxopt.automl.nas.lines import Lines
from fxopt.automl.nas.on_target import OnTarget
from fxopt.automl.nas.report import NasReport
from fxopt.automl.nas.scores import Scores
from fxopt.automl.nas.view import Supernet
from fxopt.driver.default_cache import default_cache
from fxopt.driver.plan import Plan, resolve
from fxopt.errors import BudgetError, UsageError
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.runtime.staging import write_json
from fxopt.support.machine_lock import machine
from fxopt.workload.batching import fixed_batch, in_batches

ADVICE = (
    "one target alone: prune_channels and distill cost less than a supernet, which pays from about four targets or "
    "budgets on; see docs/nas.md"
)


def nas(
    model: str | Asked, out: str | Path, *, progress: Callable[[str], None] = lambda line: None, **options: Any
) -> NasReport:
    """Train a supernet of a model, search it for each target, and write the fronts into the folder ``out``.

    ``options`` are those of :func:`asked <fxopt.automl.nas.asked.asked>`: ``targets``, ``limits`` such as
    ``{"latency": "0.5x", "drop": 0.01}``, ``epochs``, ``behind`` (passes after the extraction), ``trials`` for evolution
    and as many at random, ``answers`` per target, ``device`` to train and evaluate on. Each front is a folder of recipes
    that :func:`fxopt.build` builds, and ``nas.json`` has everything. The same call with the same ``out`` resumes an earlier
    one, however that ended.
    Raises UsageError, CaptureError, DataError, and BudgetError where the trained whole, or the smallest sub-network, is
    over a limit.
    """
    began, out = time.monotonic(), Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from None
    ask = model if isinstance(model, Asked) else asked(model, out, **options)
    first = ask.targets[0]
    plan, program = resolve(first.recipe, default_cache()).capture()
    data = plan.workload.need_data("nas")
    progress("the supernet is trained")
    with machine(alone=False):
        outcome = plan.rewrite(program, plan.backend, (), Pipeline.parse(ask.training))
    supernet: Supernet = registry.get("analysis", "supernet")(
        outcome.program, Context(plan.workload, device=plan.device)
    )
    if not supernet.names and not supernet.layers:
        reasons = "\n".join(f"    {skip}" for step in outcome.steps for skip in step.skips[:8])
        raise UsageError(
            f"nas: nothing of {ask.model} is elastic\n{reasons}",
            way_out="low_rank and quantize need no channels to remove",
        )
    before, drop = _drop(plan, program, outcome.program)
    if ask.drop is not None and drop > ask.drop:
        raise BudgetError(
            f"nas: the largest sub-network, the trained whole, lost more of {data.metric} than the limit",
            expected=f"at most {ask.drop:.4g}",
            got=f"{drop:.4g}",
            way_out="train for more epochs, at another rate, or allow more",
        )
    key = hashlib.sha256(f"{outcome.program.fingerprint()} {ask.behind} {ask.least}".encode()).hexdigest()[:32]
    scores = Scores(supernet, program, data, plan.device, Lines(out / "scores.jsonl", key))
    searches = [OnTarget(ask, want, supernet, scores, out / want.target.name, key, progress) for want in ask.targets]
    report = NasReport(
        model=ask.model, metric=data.metric, original_metric=before, training=ask.training, widths=list(supernet.names),
        branches=list(supernet.layers), whole_drop=drop, notes=[ADVICE] if len(searches) == 1 else [],
        targets=[search.search() for search in searches], seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
    write_json(out / report.FILE, report.to_dict())
    return report


def _drop(plan: Plan, original: Program, trained: Program) -> tuple[float, float]:
    """The original's metric on the validation split, and by how much the trained whole is below it."""
    data = plan.workload.need_data("nas")
    with placed(original, plan.device), placed(trained, plan.device):
        values = [data.evaluate(in_batches(p, fixed_batch(original)), "validation") for p in (original, trained)]
    return values[0], values[0] - values[1]
