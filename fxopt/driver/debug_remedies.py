"""What leaving the worst layers of a quantized artifact in float would win, measured by quantizing again without them."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from fxopt.driver.debugged import Remedy
from fxopt.driver.layers import layers_of
from fxopt.driver.plan import Plan
from fxopt.driver.time_build import built_times
from fxopt.ir.program import Program
from fxopt.numerics.error_sums import ErrorSums
from fxopt.numerics.execute import run
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.runtime.device import cannot_time


def measured_remedies(
    layers: Sequence[str],
    most: int,
    program: Program,
    quantized: Program,
    reference: Program,
    plan: Plan,
    leaves: Sequence[Pass],
    batches: Iterable[list[Any]],
) -> list[Remedy]:
    """Quantize once more for each of the first ``most`` of ``layers`` that multiply, by node names, with it in float; what wins
    most first.

    ``leaves`` are the passes that made ``quantized`` of ``program``, ``reference`` is the program in float, ``batches`` are
    flat inputs. Empty where insert_qdq is not one of the passes.
    """
    at = next((i for i, leaf in enumerate(leaves) if leaf.name == "insert_qdq"), None)
    macs = {layer.name: layer.macs for layer in layers_of(reference)}
    tried = [layer for layer in layers if macs.get(layer)][:most]
    if at is None or not tried:
        return []
    batches = list(batches)
    wanted = [run(reference, batch, wide=False).outputs for batch in batches]
    before = _worst_db(quantized, wanted, batches)
    total = sum(macs.values()) or 1
    options, found = vars(leaves[at]), []
    others: dict[str, Program] = {}
    for layer in tried:
        kept = (*options["keep_float"], layer)
        less: Pass = dataclasses.replace(leaves[at], **{"keep_float": kept})
        changed = Pipeline((*leaves[:at], less, *leaves[at + 1 :]))
        other = changed.run(
            program, watchers=(), workload=plan.workload, target=plan.target, backend=plan.backend, cache=plan.cache,
            told_at=logging.DEBUG,
        ).program  # fmt: skip
        others[layer] = other
        after, share = _worst_db(other, wanted, batches), macs[layer] / total
        option = f"quantize(keep_float={kept!r})"
        found.append(Remedy(option=option, layer=layer, before_db=before, after_db=after, macs_share=share))
    slower = _slowdowns(quantized, others, plan)
    found = [remedy.model_copy(update={"slower": slower.get(remedy.layer)}) for remedy in found]
    return sorted(found, key=lambda remedy: -remedy.after_db)


def _slowdowns(quantized: Program, others: dict[str, Program], plan: Plan) -> dict[str, float]:
    """Latency of others over that of a program, as the backend builds them, timed side by side; empty where it cannot be."""
    if cannot_time(plan.target) or plan.backend.cannot_build(plan.target):
        return {}
    context = Context(plan.workload, plan.target, plan.backend)
    times = built_times({"": quantized, **others}, context, "a layer's latency")
    return {layer: times[layer].ratio(times[""]).median for layer in others}


def _worst_db(program: Program, wanted: Sequence[list[Any]], batches: Sequence[Any]) -> float:
    sums: list[ErrorSums] = []
    for want, batch in zip(wanted, batches, strict=True):
        pairs = list(_tensors(want, run(program, batch, wide=False).outputs))
        sums = sums or [ErrorSums() for _ in pairs]
        for total, (a, b) in zip(sums, pairs, strict=True):
            total.add(a, b)
    return min((total.sqnr_db for total in sums), default=math.inf)


def _tensors(want: list[Any], got: list[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for a, b in zip(want, got, strict=True):
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            yield a, b
