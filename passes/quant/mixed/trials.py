"""Programs in which some of the layers are quantized, all from one calibration."""

from __future__ import annotations

from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.step import tidy
from fxopt.passes.common.variant_quality import Judge
from fxopt.passes.quant.decide import Placer
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.refine.analytic_bias import MeanInputs, correct_analytically


class Trials(Judge):
    """Trials of one float program, which has been prepared for ``insert_qdq``.

    ``ranges`` has the quantization parameters of every value that the full placement quantizes, by the node's name. Layers,
    and products of two values, are named by their nodes' names. With ``means`` of their inputs biases are corrected
    analytically. Raises DataError without usable data.
    """

    def __init__(
        self,
        program: Program,
        context: Context,
        placer: Placer,
        ranges: dict[str, Affine],
        who: str,
        means: MeanInputs | None = None,
    ) -> None:
        super().__init__(program, context.workload, who, context.device)
        self.context, self.placer, self.ranges, self._means = context, placer, ranges, means
        placement = placer(program)
        self.layers = tuple(node.name for node in (*placement.layers, *placement.products))

    def quantized(self, left: frozenset[str]) -> Program:
        """A copy in which all layers are quantized except those ``left`` in float; shapes of new nodes are not derived."""
        twin = shared_copy(self.program)
        placement = self.placer(twin, left)
        ranges = {node: self.ranges[node.name] for node in placement.values}
        codes = encode_layers(twin, placement.layers, ranges, self.placer.policy, per_tensor=placement.per_tensor)
        if self._means is not None:
            codes = correct_analytically(twin, codes, ranges, self._means)
        emit(twin, placement, ranges, codes)
        tidy(twin)
        return twin
