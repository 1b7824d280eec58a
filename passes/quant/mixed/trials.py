"""Programs in which some of the layers are quantized, all from one calibration, and how good they are."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.batching import fixed_batch, in_batches
from fxopt.compare import sqnr
from fxopt.errors import DataError
from fxopt.passes.quant.calibrate import fitting_batches
from fxopt.passes.quant.decide import Placer
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.refine.analytic_bias import MeanInputs, correct_analytically
from fxopt.pipeline import tidy
from fxopt.program import Program
from fxopt.workload import Data

_JUDGED = 32
"""Validation examples that a signal-to-noise ratio is taken over."""


class Trials:
    """Trials of one float program, whose batch norms are folded and which is ready for ``insert_qdq`` otherwise.

    ``ranges`` gives the code of every value that the full placement quantizes, by the node's name. Layers are named by
    their nodes' names. With ``means`` of their inputs biases are corrected analytically. Raises DataError without usable data.
    """

    def __init__(
        self, program: Program, placer: Placer, ranges: dict[str, Affine], who: str, means: MeanInputs | None = None
    ) -> None:
        workload = program.context.workload
        if workload is None:
            raise DataError(f"{who} needs data: run it with a workload")
        self.program, self.placer, self.ranges, self._means = program, placer, ranges, means
        self.data: Data = workload.need_data(who)
        args, _ = next(iter(self.data.batches("validation", batch_size=_JUDGED)))
        spec = pytree.tree_structure((program.args, program.kwargs))
        self._inputs = [pytree.tree_unflatten(leaves, spec) for leaves in fitting_batches(program, args)]
        self.layers = tuple(node.name for node in placer(program).layers)

    def quantized(self, left: frozenset[str]) -> Program:
        """A copy in which all layers are quantized but those ``left`` in float; shapes of new nodes are not derived."""
        twin = self.program.copy()
        placement = self.placer(twin, left)
        ranges = {node: self.ranges[node.name] for node in placement.values}
        codes = encode_layers(twin, placement.layers, ranges, self.placer.policy, per_tensor=placement.per_tensor)
        if self._means is not None:
            codes = correct_analytically(twin, codes, ranges, self._means)
        emit(twin, placement, ranges, codes)
        tidy(twin)
        return twin

    def sqnr(self, program: Program) -> float:
        """Signal-to-quantization-noise ratio in dB of a trial's outputs, over validation examples; inf if they are equal."""
        got = [_outputs(program, inputs) for inputs in self._inputs]
        return min(sqnr(want, found) for want, found in zip(self._wanted, got, strict=True))

    def metric(self, program: Program) -> float:
        """The workload's metric of a trial on the validation split."""
        return self.data.evaluate(in_batches(program, fixed_batch(program)), "validation")

    @functools.cached_property
    def _wanted(self) -> list[list[Any]]:
        return [_outputs(self.program, inputs) for inputs in self._inputs]


def _outputs(program: Program, inputs: Any) -> list[Any]:
    args, kwargs = inputs
    with torch.no_grad():
        return pytree.tree_leaves(program(*args, **kwargs))
