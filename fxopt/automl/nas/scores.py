"""Divergence of sub-networks from the original, each measured once and stored, so that a kill loses none."""

from __future__ import annotations

import json

import torch
from torch.utils import _pytree as pytree

from fxopt.automl.evaluator import divergence
from fxopt.automl.nas.lines import Lines
from fxopt.automl.nas.view import Subnet, Supernet
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.ir.transfer import put, take
from fxopt.numerics.execute import untouched
from fxopt.support.machine_lock import machine
from fxopt.workload import Data, Divisible
from fxopt.workload.batching import examples, fixed_batch
from fxopt.workload.workload import validation_batches

_EXAMPLES, _BATCH = 256, 64


class Scores:
    """Divergence from the original's outputs over one half of the validation split, by sub-network."""

    def __init__(self, supernet: Supernet, original: Program, data: Data, device: str, lines: Lines) -> None:
        self._supernet, self._lines = supernet, lines
        half = data.half(0) if isinstance(data, Divisible) else data
        size = fixed_batch(original)
        found = validation_batches(half, _EXAMPLES, size or _BATCH)
        self._batches = [pytree.tree_leaves(args) for args in found if size is None or examples(args) == size]
        with torch.no_grad(), placed(original, device), untouched(original):
            found = (original.module(*put(batch, original.device)) for batch in self._batches)
            self._wanted = [take(pytree.tree_leaves(output)) for output in found]

    def of(self, subnet: Subnet) -> float:
        """Kullback-Leibler divergence in nats for class scores, otherwise noise over signal."""
        name = json.dumps(subnet)
        if name not in self._lines.known:
            with machine(alone=False):
                self._lines.add(name, divergence(self._wanted, self._supernet.outputs(*subnet, self._batches)))
        return float(self._lines.known[name])
