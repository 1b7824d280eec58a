"""The accuracy debugger: the values that an artifact computes for real data, against those of the program in float."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.driver.artifact_values import ArtifactValues, KeptIndices
from fxopt.driver.debug_remedies import Remedy, measured_remedies
from fxopt.driver.default_cache import default_cache
from fxopt.driver.int8_check import maker
from fxopt.driver.layer_errors import Observed, observe
from fxopt.driver.layers import LayerFigures, layers_of
from fxopt.driver.lower import legalized
from fxopt.driver.part import Document, Part, Real
from fxopt.driver.plan import Plan, resolve
from fxopt.driver.recipe import make_recipe
from fxopt.driver.report import BuildReport
from fxopt.errors import UsageError
from fxopt.ir.program import Program
from fxopt.ir.program_state import program_digest
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.runtime.artifact import Artifact, load_to_check
from fxopt.runtime.read_manifest import read_manifest
from fxopt.support.scratch import scratch_folder
from fxopt.workload.batching import cut, fixed_batch
from fxopt.workload.workload import validation_batches

SCHEMA_VERSION = 1
_BATCH = 8
_HALF = 0.5
"""Share of a value's noise from which it counts as originating in its layer."""


class LayerError(Part):
    """A value: ``name`` is its node, ``layer`` that of its layer, where the value is after an activation.

    ``made_db``: SQNR of the layer by itself, for the inputs that it had in the artifact. ``out_db``: that of the value in
    all. ``in_db``: that of the worst operand, None where it reads inputs alone. ``share``: how much of the value's noise
    originates in this layer, 0 to 1. ``low`` and ``high`` are the range in float, ``clipped`` the share of elements outside
    that of the integers. ``histogram`` counts the elements in float that are below that range, in 24 equal parts of it, and
    above; empty for a value that is no integer.
    """

    name: str
    layer: str
    module: str = ""
    op: str = ""
    source: str = ""
    in_db: Real | None = None
    out_db: Real
    made_db: Real
    share: Real
    cosine: Real
    low: Real
    high: Real
    clipped: float = 0.0
    histogram: list[int] = Field(default_factory=list)

    @property
    def makes(self) -> bool:
        """Whether most of the value's noise originates in this layer, and does not come with its inputs."""
        return self.share >= _HALF


class Debugged(Document):
    """The result, with the layer that originates most noise first. ``examples`` of the validation split were run, or the
    example inputs where there is no data (``random``). ``against``: what the values were compared with. ``remedies``: what
    leaving the worst layers in float wins. ``unmatched``: values of the artifact that have no counterpart there.
    """

    schema_version: int = SCHEMA_VERSION
    folder: str
    against: str
    examples: int
    random: bool = False
    out_db: Real
    layers: list[LayerError]
    remedies: list[Remedy] = Field(default_factory=list)
    unmatched: list[str] = Field(default_factory=list)


def debug(folder: Path, *, examples: int = 32, remedies: int = 3) -> Debugged:
    """Find where the error of the artifact in ``folder`` originates, on ``examples`` of its model's validation split, and
    what leaving as many as ``remedies`` of its worst layers in float would win.

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
    lossy = {i for i, step in enumerate(outcome.steps) if step.quantizes}
    against = (
        "the program in float, before it is quantized" if lossy else "the model as its exact passes alone leave it"
    )
    lossy = lossy or {i for i, step in enumerate(outcome.steps) if step.kind != "exact"}
    leaves = [leaf for pass_ in plan.pipeline.passes for leaf in pass_.steps()]
    exact = Pipeline(tuple(leaf for i, leaf in enumerate(leaves) if i not in lossy))
    reference = plan.rewrite(program, plan.backend, (), exact).program
    built = load_to_check(folder, plan.target)
    found = compare_values(_legal(reference, plan), lowered, built, plan, examples, outcome.program.kept_indices)
    worst = list(dict.fromkeys(row.layer for row in found.layers if math.isfinite(row.made_db)))
    batches = _batches(plan, reference, examples)
    tried = measured_remedies(worst, remedies, program, outcome.program, reference, plan, leaves, batches)
    return found.model_copy(update={"folder": str(folder), "against": against, "remedies": tried})


def _legal(program: Program, plan: Plan) -> Program:
    return legalized(program, plan.backend, plan.target, plan.workload, plan.cache)


def compare_values(
    reference: Program, lowered: Program, built: Artifact, plan: Plan, examples: int, kept: KeptIndices | None = None
) -> Debugged:
    """Compare the values of the artifact of ``lowered`` with those of ``reference``, which has the same interface.

    Values are matched by the names of nodes, which rewrites keep; ``kept`` has the kept indices of pruned weights, and
    removed channels count as zero.
    """
    with scratch_folder() as scratch:
        values = ArtifactValues(reference, lowered, built, plan, scratch / "exposed", kept or {})
        seen: dict[str, Observed] = {}
        count, batches, random = 0, _batches(plan, reference, examples), plan.workload.data is None
        for leaves in batches:
            outputs, held = values(leaves)
            observe(reference, leaves, held, outputs, seen)
            count += next(len(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))
    rows = _rows(seen, reference)
    last = [
        seen[node.name].all.sqnr_db for node in reference.outputs() if isinstance(node, fx.Node) and node.name in seen
    ]
    return Debugged(
        folder="", against="", examples=count, random=random, out_db=min(last, default=float("inf")),
        layers=sorted(rows, key=lambda row: row.made_db), unmatched=values.unmatched,
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


def _rows(seen: dict[str, Observed], program: Program) -> list[LayerError]:
    layers = {layer.name: layer for layer in layers_of(program)}
    nodes = {node.name: node for node in program.graph.nodes}
    rows = []
    for name, value in seen.items():
        layer = layers.get(maker(nodes[name]).name, LayerFigures(name=name, op=str(nodes[name].op)))
        noise = value.all.noise
        rows.append(
            LayerError(
                name=name, layer=layer.name, module=layer.module, op=layer.op, source=layer.source,
                in_db=min((seen[read].all.sqnr_db for read in value.reads), default=None),
                out_db=value.all.sqnr_db, made_db=value.made.sqnr_db,
                share=min(1.0, value.made.noise / noise) if noise else 0.0,
                cosine=value.all.cosine, low=value.low, high=value.high, clipped=value.clipped / max(value.count, 1),
                histogram=value.histogram,
            )
        )  # fmt: skip
    return rows
