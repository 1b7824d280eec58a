"""Analytic bias correction: compensate the rounding of a weight, from the mean of its layer's input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.program import Program
from fxopt.ir.transfer import take
from fxopt.passes.quant.encode import LayerCodes
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.refine.with_bias import channel_sum, corrected


class MeanInputs:
    """The sum of layers' float inputs over all examples: one map for each value, however many examples there are."""

    def __init__(self, program: Program, layers: Iterable[fx.Node]) -> None:
        self._dims: dict[fx.Node, int] = {}
        for layer in layers:
            weight = program.tensor(arguments(layer)["weight"])
            assert weight is not None
            source = arguments(layer)["input"]
            self._dims[source] = max(weight.dim(), self._dims.get(source, 0))
        self._sums: dict[str, dict[tuple[int, ...], tuple[torch.Tensor, int]]] = {n.name: {} for n in self._dims}

    def watching(self) -> Mapping[fx.Node, Callable[[torch.Tensor], None]]:
        """The functions to call with the values of nodes during calibration."""
        return {node: lambda value, node=node: self._see(node, value) for node in self._dims}  # type: ignore[misc]

    def _see(self, node: fx.Node, value: torch.Tensor) -> None:
        batch = value if value.dim() >= self._dims[node] else value[None]
        known = self._sums[node.name]
        total, count = known.get(batch.shape[1:], (torch.zeros((), dtype=torch.float64), 0))
        known[batch.shape[1:]] = (total + take(batch.sum(0, keepdim=True)).double(), count + len(batch))

    def of(self, layer: fx.Node) -> Iterable[tuple[torch.Tensor, int]]:
        """For each shape of a layer's input: the sum over examples, float64 ``[1, ...]``, and their number."""
        return self._sums[arguments(layer)["input"].name].values()


def correct_analytically(
    program: Program, codes: dict[fx.Node, LayerCodes], ranges: dict[fx.Node, Affine], means: MeanInputs
) -> dict[fx.Node, LayerCodes]:
    """The quantized layers with the bias b - (W̃ - W)·E[x]; a layer that cannot have it is reported.

    x is the input of the float layer, so layers do not depend on one another (Nagel et al. 2019, "Data-Free Quantization
    Through Weight Equalization and Bias Correction", eq. 17 and 18; there E[x] comes from batch norm's statistics, here
    from the calibration data). For a convolution the sum over the kernel counts padding as zeros, where eq. 18 takes every
    position for an inner one.
    """
    found = {}
    for layer, old in codes.items():
        call = arguments(layer)
        weight, bias = program.tensor(call["weight"]), program.tensor(call["bias"])
        assert weight is not None
        moved = _mean_error(layer, old.weight.real().double() - weight.detach().double(), means)
        exact = (0.0 if bias is None else bias.detach().double()) - moved
        found[layer] = corrected(program, layer, old, exact, ranges[call["input"]].scale)
    return found


def _mean_error(layer: fx.Node, error: torch.Tensor, means: MeanInputs) -> torch.Tensor:
    """Mean per output channel of the layer's output with ``error`` as its weight, float64 ``[out]``."""
    call = fx.node.map_arg(arguments(layer), lambda _: None) | {"weight": error}
    total, count = torch.zeros((), dtype=torch.float64), 0
    for summed, examples in means.of(layer):
        one = layer.target(**call | {"input": summed})  # type: ignore[operator]
        sums, places = channel_sum(one, error.dim())
        total, count = total + sums, count + places * examples
    return total / count
