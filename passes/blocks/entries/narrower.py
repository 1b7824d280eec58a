"""Fewer channels or heads inside a block."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Lt

from fxopt import Pipeline
from fxopt.errors import BudgetError
from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.sample_data import sample_workload
from fxopt.passes.prune.coupling.groups import Unit
from fxopt.passes.prune.shrink import shrink
from fxopt.passes.prune.zero_channels import zero_channels
from fxopt.support.options import Tune

Share = Annotated[float, Gt(0), Lt(1), Tune(choices=(0.75, 0.5, 0.25))]


@block_entry("branch", "mlp")
def narrower(block: Program, samples: Samples | None, *, share: Share = 0.5) -> str | None:
    """The block with a share of its inner channels, those with the largest weights.

    The layers that read them are refitted by least squares where there are samples, as by prune_channels(reconstruct=True).
    """
    return _pruned(block, samples, 1 - share, ("channels",))


@block_entry("attention")
def fewer_heads(block: Program, samples: Samples | None, *, share: Share = 0.5) -> str | None:
    """Attention with a share of its heads, those with the largest weights.

    The output projection is refitted by least squares where there are samples.
    """
    return _pruned(block, samples, 1 - share, ("heads",))


def _pruned(block: Program, samples: Samples | None, ratio: float, units: tuple[Unit, ...]) -> str | None:
    zero = zero_channels(ratio=ratio, units=units, reconstruct=samples is not None)
    workload = None if samples is None else sample_workload(block, samples)
    try:
        outcome = Pipeline.of(zero, shrink()).run(block, watchers=(), workload=workload)
    except BudgetError as error:
        return error.what
    if not outcome.steps[-1].changed:
        return f"no {units[0]} inside it can go"
    block.module = outcome.program.module
    return None
