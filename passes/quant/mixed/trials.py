"""Programs in which some of the layers are quantized, all from one calibration, and how good they are."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.batching import fixed_batch, in_batches
from fxopt.compare import sqnr
from fxopt.errors import DataError
from fxopt.passes.quant.calibrate import calibrate, fitting_batches
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.observers import FORMATS, Affine
from fxopt.passes.quant.placement import place
from fxopt.pipeline import tidy
from fxopt.program import Program
from fxopt.qdq import Policy
from fxopt.workload import Data

_JUDGED = 32
"""Validation examples that a signal-to-noise ratio is taken over."""


class Trials:
    """Trials of one float program, whose batch norms are folded and which is ready for ``insert_qdq`` otherwise.

    ``ranges`` gives the code of every value that the full placement quantizes, by the node's name. Layers are named by
    their nodes' names; those of ``keep_float`` are none. Raises DataError without usable data.
    """

    def __init__(
        self, program: Program, policy: Policy, ranges: dict[str, Affine], who: str, keep_float: tuple[str, ...] = ()
    ) -> None:
        workload = program.context.workload
        if workload is None:
            raise DataError(f"{who} needs data: run it with a workload")
        self.program, self.policy, self.ranges, self.keep_float = program, policy, ranges, keep_float
        self.data: Data = workload.need_data(who)
        args, _ = next(iter(self.data.batches("validation", batch_size=_JUDGED)))
        spec = pytree.tree_structure((program.args, program.kwargs))
        self._inputs = [pytree.tree_unflatten(leaves, spec) for leaves in fitting_batches(program, args)]
        self.layers = tuple(node.name for node in place(program, policy, keep_float).layers)

    def quantized(self, left: frozenset[str]) -> Program:
        """A copy in which all layers are quantized but those ``left`` in float; shapes of new nodes are not derived."""
        twin = self.program.copy()
        placement = place(twin, self.policy, self.keep_float, left)
        ranges = {node: self.ranges[node.name] for node in placement.values}
        codes = encode_layers(twin, placement.layers, ranges, self.policy)
        emit(twin, placement, ranges, codes, per_channel=self.policy.per_channel)
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


def observed_ranges(program: Program, policy: Policy, images: int, who: str) -> dict[str, Affine]:
    """Calibrate the values of the full placement; their codes by the node's name."""
    owners = place(program, policy, ()).values
    assert program.context.workload is not None
    batches = program.context.workload.calibration(images, who)
    observers = calibrate(program, batches, dict.fromkeys(owners.values()), images=images)
    return {node.name: observers[owner].affine(FORMATS[policy.activations]) for node, owner in owners.items()}


def _outputs(program: Program, inputs: Any) -> list[Any]:
    args, kwargs = inputs
    with torch.no_grad():
        return pytree.tree_leaves(program(*args, **kwargs))
