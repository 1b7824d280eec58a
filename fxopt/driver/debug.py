"""The accuracy debugger: the values that an artifact computes for real data, against those of the program in float."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.backend import find_backend
from fxopt.driver.artifact_values import ArtifactValues, KeptIndices
from fxopt.driver.debug_remedies import measured_remedies
from fxopt.driver.debugged import Debugged, LayerError
from fxopt.driver.default_cache import default_cache
from fxopt.driver.int8_check import maker
from fxopt.driver.layer_effects import alone_db
from fxopt.driver.layer_errors import Observed, observe
from fxopt.driver.layers import LayerFigures, layers_of
from fxopt.driver.lower import legalized
from fxopt.driver.plan import Plan, resolve
from fxopt.driver.recipe import make_recipe
from fxopt.driver.report import BuildReport
from fxopt.errors import UsageError
from fxopt.ir.program import Program
from fxopt.ir.program_state import program_digest
from fxopt.pass_manager.pipeline import Outcome, Pipeline
from fxopt.runtime.artifact import Artifact, load_to_check
from fxopt.runtime.read_manifest import read_manifest
from fxopt.support.scratch import scratch_folder
from fxopt.target import host
from fxopt.workload.batching import cut, fixed_batch
from fxopt.workload.workload import validation_batches

_BATCH = 8
_REFERENCE = "eager"
"""The backend whose artifact is the program in torch."""


def debug(folder: Path, *, examples: int = 32, remedies: int = 4) -> Debugged:
    """Find where the error of the artifact in ``folder`` originates, on ``examples`` of its model's validation split, and
    what leaving as many as ``remedies`` of the layers around its worst values in float would win.

    Its recipe is run again, for which the cache has most; values of int8 artifacts are read from its own kernels, see
    :class:`fxopt.driver.intermediate_values.Exposed`, and one in float is built again with its layers as outputs. Raises
    UsageError for a folder without a report or whose recipe gives another program today, BackendError.
    """
    report = BuildReport.read(folder)
    manifest = read_manifest(folder)
    recipe = make_recipe(manifest.recipe or {}, str(folder))
    plan, program = resolve(replace(recipe, backend=manifest.backend), default_cache()).capture()
    outcome = plan.rewrite(program, plan.backend, ())
    lowered = _legal(outcome.program, plan)
    if report.program is not None and program_digest(lowered) != report.program:
        raise UsageError(
            f"the recipe of {folder} gives another program today: its model, data or code changed, or training did not repeat",
            way_out="build it again, with the cache, and debug that",
        )
    built = load_to_check(folder, plan.target)
    found = _examined(plan, plan, program, outcome, lowered, built, examples, remedies)
    return found.model_copy(update={"folder": str(folder), "values_of": f"the artifact of {plan.backend}"})


def debug_before_build(program: Program, plan: Plan, *, examples: int = 32, remedies: int = 4) -> Debugged:
    """The same for the passes of a plan over a captured ``program``, whose artifact is built to be looked at and dropped.

    Where the backend's artifact cannot be built or run here, the values are those of the rewritten program in torch, and
    ``values_of`` says why. Raises what passes and backends raise.
    """
    outcome = plan.rewrite(program, plan.backend, ())
    with scratch_folder() as scratch:
        lowered, built, reason = None, None, plan.backend.cannot_build(plan.target)
        if reason is None:
            lowered, built = plan.lower(outcome.program, plan.backend, scratch / "built")
            reason = built.elsewhere
        looked = plan
        if lowered is None or built is None or reason is not None:
            looked = replace(plan, backend=find_backend(_REFERENCE), target=host())
            lowered, built = looked.lower(outcome.program, looked.backend, scratch / "reference")
        found = _examined(plan, looked, program, outcome, lowered, built, examples, remedies)
    of = f"the artifact that {plan.backend} builds" if looked is plan else f"the quantized program in torch ({reason})"
    return found.model_copy(update={"values_of": of})


def _examined(
    plan: Plan,
    looked: Plan,
    program: Program,
    outcome: Outcome,
    lowered: Program,
    built: Artifact,
    examples: int,
    most: int,
) -> Debugged:
    """Hold an artifact, that of the plan ``looked``, against the program in float; ``most`` remedies are tried."""
    lossy = {i for i, step in enumerate(outcome.steps) if step.quantizes}
    against = (
        "the program in float, before it is quantized" if lossy else "the model as its exact passes alone leave it"
    )
    stays = [str(skip) for i in sorted(lossy) for skip in outcome.steps[i].skips]
    lossy = lossy or {i for i, step in enumerate(outcome.steps) if step.kind != "exact"}
    leaves = [leaf for pass_ in plan.pipeline.passes for leaf in pass_.steps()]
    exact = Pipeline(tuple(leaf for i, leaf in enumerate(leaves) if i not in lossy))
    reference = plan.rewrite(program, plan.backend, (), exact).program
    kept = outcome.program.kept_indices
    found = compare_values(_legal(reference, looked), lowered, built, looked, examples, kept)
    batches = _batches(plan, reference, examples)
    tried = measured_remedies(_worst(found.layers), most, program, outcome.program, reference, plan, leaves, batches)
    return found.model_copy(update={"against": against, "stays": stays, "remedies": tried})


def _worst(rows: list[LayerError]) -> list[str]:
    """Layers at both ends of the worst values: the one that makes a value has its weights rounded, those that read it have it
    rounded for them.
    """
    ends = (
        [row.layer, *(other.layer for other in rows if row.name in other.reads)]
        for row in rows if math.isfinite(row.alone_db)
    )  # fmt: skip
    return list(dict.fromkeys(layer for some in ends for layer in some))


def _legal(program: Program, plan: Plan) -> Program:
    return legalized(program, plan.backend, plan.target, plan.workload, plan.cache)


def compare_values(
    reference: Program, lowered: Program, built: Artifact, plan: Plan, examples: int, kept: KeptIndices | None = None
) -> Debugged:
    """Compare the values of the artifact of ``lowered`` with those of ``reference``, which has the same interface.

    Values are matched by the names of nodes, which rewrites keep; ``kept`` has the kept indices of pruned weights, and
    removed channels count as zero. What the error of a layer does to the outputs is told by the first batch.
    """
    with scratch_folder() as scratch:
        values = ArtifactValues(reference, lowered, built, plan, scratch / "exposed", kept or {})
        seen: dict[str, Observed] = {}
        alone: dict[str, float] = {}
        count, batches, random = 0, _batches(plan, reference, examples), plan.workload.data is None
        for leaves in batches:
            outputs, held = values(leaves)
            errors = observe(reference, leaves, held, outputs, seen)
            alone = alone or alone_db(reference, leaves, errors)
            count += next(len(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))
    rows = _rows(seen, alone, reference)
    last = [
        seen[node.name].all.sqnr_db for node in reference.outputs() if isinstance(node, fx.Node) and node.name in seen
    ]
    return Debugged(
        examples=count, random=random, out_db=min(last, default=float("inf")),
        layers=sorted(rows, key=lambda row: (row.alone_db, row.made_db)), unmatched=values.unmatched,
    )  # fmt: skip


def _batches(plan: Plan, program: Program, examples: int) -> Iterator[list[Any]]:
    """Flat inputs, of the validation split or the example."""
    size = fixed_batch(program)
    data = plan.workload.data
    if data is None:
        yield program.example_leaves()
        return
    for args in validation_batches(data, examples, size or min(_BATCH, examples)):
        leaves = pytree.tree_leaves(args)
        yield from cut(leaves, size) if size else [leaves]


def _rows(seen: dict[str, Observed], alone: dict[str, float], program: Program) -> list[LayerError]:
    layers = {layer.name: layer for layer in layers_of(program)}
    nodes = {node.name: node for node in program.graph.nodes}
    rows = []
    for name, value in seen.items():
        layer = layers.get(maker(nodes[name]).name, LayerFigures(name=name, op=str(nodes[name].op)))
        noise = value.all.noise
        rows.append(
            LayerError(
                name=name, layer=layer.name, module=layer.module, op=layer.op, source=layer.source,
                reads=list(value.reads),
                alone_db=alone.get(name, math.inf),
                in_db=min((seen[read].all.sqnr_db for read in value.reads), default=None),
                out_db=value.all.sqnr_db, made_db=value.made.sqnr_db,
                share=min(1.0, value.made.noise / noise) if noise else 0.0,
                cosine=value.all.cosine, low=value.low, high=value.high, clipped=value.clipped / max(value.count, 1),
                histogram=value.histogram,
            )
        )  # fmt: skip
    return rows
