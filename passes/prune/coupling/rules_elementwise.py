"""Element by element: an index of the result hangs on the same index of every operand."""

from __future__ import annotations

from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule

_LIKE = ("zeros_like", "ones_like", "full_like", "empty_like", "copy_", "zero_", "fill_", "masked_fill_")
_EXTREMES = ("aten.max.other", "aten.min.other")  # other overloads of these reduce
_TOKENS = ("quantized_decomposed.quantize_per_token", "quantized_decomposed.dequantize_per_token")


@rule("family:unary", "family:binary", *_LIKE, *_EXTREMES, *_TOKENS)
def elementwise(sweep: Sweep, node: fx.Node) -> Axes:
    """All tensor operands, with broadcasting."""
    return sweep.broadcast([sweep.of(n) for n in node.all_input_nodes if sweep.of(n)], node)


@rule(
    "to",
    "type_as",
    "_to_copy",
    "quantized_decomposed.quantize_per_tensor",
    "quantized_decomposed.dequantize_per_tensor",
)
def first_operand(sweep: Sweep, node: fx.Node) -> Axes:
    """The first operand alone; others only say a dtype or hold a scale."""
    return sweep.of(node.args[0])


@rule("broadcast_tensors")
def broadcast_tensors(sweep: Sweep, node: fx.Node) -> list[Axes]:
    """All results have the one shape."""
    return [elementwise(sweep, node) for _ in node.all_input_nodes]


@rule("prelu")
def prelu(sweep: Sweep, node: fx.Node) -> Axes:
    """The weight, if not a single number, belongs to dim 1."""
    axes, weight = sweep.of(node.args[0]), sweep.of(node.args[1])
    if weight and len(axes) > 1:
        axes[1:2] = sweep.broadcast([axes[1:2], weight], node)
    return axes


@rule("cumsum", "cumprod", "logcumsumexp", "roll", "unfold", "tril", "triu")
def positional(sweep: Sweep, node: fx.Node) -> Axes:
    """What is computed from neighbours or positions pins these dims."""
    axes, call = sweep.of(node.args[0]), arguments(node)
    dims = call.get("dims", call.get("dim", call.get("dimension", [-2, -1])))
    chosen = {d % len(axes) for d in ([dims] if isinstance(dims, int) else dims or range(len(axes)))}
    sweep.pin([axes[d] for d in chosen], node, "positions along this dim matter")
    return [
        fixed if i in chosen or i >= len(axes) else axes[i] for i, fixed in enumerate(sweep.fixed(node.meta["val"]))
    ]


@rule("family:random")
def random(sweep: Sweep, node: fx.Node) -> Axes:
    """Random numbers are drawn for the whole tensor: with another size they would be others."""
    for operand in node.all_input_nodes:
        sweep.pin(sweep.of(operand), node, "random numbers are drawn for this size")
    return sweep.fixed(node.meta.get("val"))


@rule("quantized_decomposed.quantize_per_channel", "quantized_decomposed.dequantize_per_channel")
def per_channel(sweep: Sweep, node: fx.Node) -> Axes:
    """Scales and zero points belong to the axis."""
    call = arguments(node)
    axes, at = sweep.of(call["input"]), call["axis"]
    for name in ("scales", "zero_points"):
        if parameters := sweep.of(call[name]):
            axes[at] = sweep.unite(axes[at], parameters[0], node)
    return axes


@rule("quantized_decomposed.dequantize_per_channel_group")
def per_channel_group(sweep: Sweep, node: fx.Node) -> Axes:
    """A row has its own scales; the blocks along it stay as they are."""
    call = arguments(node)
    axes = sweep.of(call["input"])
    sweep.pin(axes[1:], node, "blocks along this dim share a scale")
    for name in ("scales", "zero_points"):
        if parameters := sweep.of(call[name]):
            if len(parameters) == 2:
                axes[0] = sweep.unite(axes[0], parameters[0], node)
                sweep.pin(parameters[1:], node, "one for each block")
            else:
                sweep.pin([*axes, *parameters], node, "scales of all rows stand in one dim")
    return axes


@rule("family:check", "family:size")
def nothing(sweep: Sweep, node: fx.Node) -> Axes:
    """Of no dims; it asserts something, or reads a single element."""
    return []
