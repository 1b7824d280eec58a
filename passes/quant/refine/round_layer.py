"""Round one layer's weight by AdaRound: collect its rows, learn, and keep nearest rounding where that is no worse."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.transfer import put, take
from fxopt.passes.common.layer_rows import MatrixLayer
from fxopt.passes.quant.encode import LayerCodes
from fxopt.passes.quant.placement import activated
from fxopt.passes.quant.refine.adaround import Rows, learn_rounding
from fxopt.passes.quant.refine.twins import Twins
from fxopt.passes.quant.weights import has_safe_pairs

_ROWS, _ELEMENTS = 8192, 2**22
_FEWEST_ROWS = 10


def round_layer(twins: Twins, layer: fx.Node, weight: torch.Tensor, safe_pairs: bool) -> LayerCodes | str:
    """``layer`` quantized with its ``weight`` rounded by AdaRound, or the reason why it is rounded to nearest.

    Rows are drawn at random from all that the layer computes over the calibration batches, 8192 or 4 million elements at
    most. The last fifth of them, from the last examples, is held out: a rounding that is no better there than to nearest
    is dropped. With ``safe_pairs`` a channel that would overflow in kernels that add pairs in 16 bits is rounded to
    nearest.
    """
    old = twins.codes[layer]
    form, scales, generator = _layer(layer), old.weight.scales, torch.Generator().manual_seed(0)
    nearest = put(form.matrix(old.weight.integers).flatten(2).float(), weight.device)
    groups, out, _ = nearest.shape
    scales = put(scales.reshape(groups, out, 1), weight.device)
    rows = _rows(twins, form, old, generator)
    held = max(1, rows.x.shape[1] // 5)
    if rows.x.shape[1] < _FEWEST_ROWS:
        return f"there are only {rows.x.shape[1]} rows of data for it, {_FEWEST_ROWS} are needed"
    learned, unseen = rows.part(slice(-held)), rows.part(slice(-held, None))
    matrix = form.matrix(weight.detach()).flatten(2)
    found = learn_rounding(matrix, scales, old.weight.limits, learned, generator)
    if safe_pairs:
        safe = put(has_safe_pairs(take(form.stored(found, old.weight.integers))), found.device)
        found = torch.where(safe.reshape(groups, out, 1), found, nearest)
    without, error = (float(unseen.error(codes * scales).sum()) for codes in (nearest, found))
    if not error < without:
        return "on held-out examples it would be no better"
    return replace(old, weight=replace(old.weight, integers=take(form.stored(found, old.weight.integers))))


def _layer(node: fx.Node) -> MatrixLayer:
    call = arguments(node)
    return MatrixLayer(node, call["input"], call["weight"], call["bias"], call.get("groups", 1))


def _rows(twins: Twins, form: MatrixLayer, codes: LayerCodes, generator: torch.Generator) -> Rows:
    """The quantized layer's input, and the float layer's output after its activation, at the same positions."""
    elements = codes.weight.integers[0].numel() * form.groups
    read, given = twins.read(form.node), twins.values(form.node)
    count = max(1, min(_ROWS, _ELEMENTS // elements) // len(read))
    parts = [form.rows(x, y, count, generator) for (_, x), (y, _) in zip(read, given, strict=True)]
    x = torch.cat([x.flatten(2) for x, _ in parts], 1)
    activation = activated(form.node)

    def clamp(y: torch.Tensor) -> torch.Tensor:
        if activation is form.node:
            return y
        args, kwargs = fx.node.map_arg((activation.args, activation.kwargs), lambda _: y)
        return activation.target(*args, **kwargs)  # type: ignore[operator]

    wanted = clamp(torch.cat([y for _, y in parts]).movedim(1, 0))
    bias = torch.zeros(1) if codes.bias is None else codes.bias.real()
    bias = put(bias.expand(codes.weight.scales.shape).reshape(form.groups, 1, -1), x.device)
    return Rows(x, wanted, bias, clamp)
