"""Refine the quantized weights and biases of all layers, in graph order, while the float program is still intact."""

from __future__ import annotations

from typing import Literal

import torch
from torch import fx

from fxopt.backend.quant_policy import Policy
from fxopt.errors import DataError
from fxopt.ir.op_table import arguments
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.quant.encode import LayerCodes, needs_safe_pairs
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.placement import Placement
from fxopt.passes.quant.refine.empirical_bias import empirical_bias
from fxopt.passes.quant.refine.round_layer import round_layer
from fxopt.passes.quant.refine.twins import Twins
from fxopt.passes.quant.refine.with_bias import corrected
from fxopt.workload import Workload

Rounding = Literal["nearest", "adaround"]
Correction = Literal["none", "empirical", "analytic"]


def refine(
    program: Program,
    workload: Workload | None,
    placement: Placement,
    ranges: dict[fx.Node, Affine],
    codes: dict[fx.Node, LayerCodes],
    policy: Policy,
    *,
    rounding: Rounding,
    correct_bias: Correction,
    images: int,
    device: str = "cpu",
) -> dict[fx.Node, LayerCodes]:
    """The layers with weights rounded by ``rounding`` and biases corrected empirically; the program does not change.

    One sweep over the graph, for ``images`` examples in float and quantized side by side on ``device``: each layer is
    rounded, then corrected, for its input with the layers before it done already. Raises DataError, which names the option,
    without usable data or where a layer's output is NaN or infinity.
    """
    asked = [f"rounding={rounding!r}"] * (rounding != "nearest")
    asked += [f"correct_bias={correct_bias!r}"] * (correct_bias == "empirical")
    if not asked:
        return codes
    who = f"insert_qdq({', '.join(asked)})"
    with torch.no_grad(), placed(program, device):
        batches = list(calibration_batches(program, workload, images, who))
        twins = Twins(program, placement, ranges, codes, batches)
        for node in program.graph.nodes:
            if node.op == "output":
                break
            twins.run(node)
            if node in codes:
                _check_finite(program, twins, node, who)
                if rounding == "adaround":
                    _round(program, twins, node, policy)
                if correct_bias == "empirical":
                    _correct(program, twins, node, ranges)
            twins.free(node)
    return twins.codes


def _round(program: Program, twins: Twins, layer: fx.Node, policy: Policy) -> None:
    weight = program.tensor(arguments(layer)["weight"])
    assert weight is not None
    if sum(other.weight is twins.codes[layer].weight for other in twins.codes.values()) > 1:
        program.skip(layer, "rounded to nearest: other layers share its weight")
        return
    found = round_layer(twins, layer, weight, needs_safe_pairs(layer, weight, policy))
    if isinstance(found, str):
        program.skip(layer, f"rounded to nearest: {found}")
    else:
        twins.exchange(layer, found)


def _correct(program: Program, twins: Twins, layer: fx.Node, ranges: dict[fx.Node, Affine]) -> None:
    old = twins.codes[layer]
    found = corrected(program, layer, old, empirical_bias(twins, layer), ranges[arguments(layer)["input"]].scale)
    if found is not old:
        twins.exchange(layer, found)


def _check_finite(program: Program, twins: Twins, layer: fx.Node, who: str) -> None:
    for values in twins.values(layer):
        if not all(bool(value.isfinite().all()) for value in values):
            raise DataError(
                f"{who} met NaN or infinity",
                node=program.describe(layer),
                way_out="look at the data, or at the layers before it",
            )
