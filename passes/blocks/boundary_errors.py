"""Error of the values at the boundaries of blocks, with everything before them exchanged too."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.ir.transfer import take
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.blocks.teacher import Teacher
from fxopt.passes.common.run_until import values_until


def boundary_errors(teacher: Teacher, program: Program, ends: Mapping[str, fx.Node]) -> dict[str, float]:
    """The SQNR in dB at the ends of blocks, by the original name of an end, of a program with others in their places.

    ``ends`` are the nodes of ``program`` that have the values now. The worst over the batches, infinite where they are equal.
    """
    before = {node.name: node for node in teacher.program.graph.nodes}
    found: dict[str, float] = {}
    with torch.no_grad(), placed(teacher.program, teacher.device), placed(program, teacher.device):
        for leaves in teacher.batches:
            wanted = values_until(teacher.program, leaves, {before[name] for name in ends})
            given = values_until(program, leaves, set(ends.values()))
            for name, node in ends.items():
                error = sqnr(take([wanted[before[name]]]), take([given[node]]))
                found[name] = min(found.get(name, error), error)
    return found
