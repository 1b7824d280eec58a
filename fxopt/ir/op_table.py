"""The op table: the meaning of each ATen op to passes, as data.

A pass asks the table instead of listing ops itself, and declines at an op that the table does not know. The rows are in
:mod:`fxopt.ir.op_rows`, the definitions of traits in :mod:`fxopt.ir.op_traits`. Families:

==============  ==============================================================================================
unary           element by element, one tensor operand, shape kept (activations, casts, arithmetic with a number)
binary          element by element with broadcasting, two tensor operands or more
contraction     sums over a dim of one operand against another: convolution, linear, matmul, attention
norm            normalises over or with statistics: batch, layer, group, instance, RMS
softmax         softmax and log-softmax
reduce          sum, mean, max … over dims
pool            windows over spatial dims
resample        upsampling, grid sampling
layout          the same elements in another shape or order
copy            elements repeated: expand, repeat
pick            some of the elements: slice, select, split, index
scatter         elements put or added at positions given by indices
join            concatenation, stacking
pad             elements added at the border
create          a tensor from sizes alone
random          draws numbers (dropout in training)
quant           quantize and dequantize
recurrent       LSTM, GRU, RNN: a whole sequence or one step
size            reads a size
check           asserts; computes nothing
mutate          writes into an operand
==============  ==============================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import fx

from fxopt.ir.op_rows import TABLE
from fxopt.ir.op_traits import Op, Shape, Trait
from fxopt.ir.printer import op_name

__all__ = [
    "CONVOLUTIONS", "DIRECT", "PRODUCT_OPERANDS", "STATISTICS", "TABLE", "TRANSPOSED", "Op", "Shape", "Trait", "arguments",
    "border", "bounds", "each_dim", "family", "find_quantized", "find_quantized_value", "has", "lookup", "lookup_name",
    "named", "pads_zeros", "running_statistics", "set_argument",
]  # fmt: skip

CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d")
"""Ordinary convolutions; weight ``[out, in / groups, *kernel]``, grouped and depthwise included."""

DIRECT = (*CONVOLUTIONS, *(f"{name}.padding" for name in CONVOLUTIONS))
"""The same, and those whose padding is given by name."""

TRANSPOSED = ("aten.conv_transpose1d", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
"""Transposed convolutions; weight ``[in, out / groups, *kernel]``."""

STATISTICS = ("running_mean", "running_var")
"""Arguments of a norm that it updates in training."""

PRODUCT_OPERANDS = {
    "aten.linear": ("input", "weight"), "aten.matmul": ("self", "other"), "aten.mm": ("self", "mat2"),
    "aten.addmm": ("mat1", "mat2"),
}  # fmt: skip
"""By product, its input and its matrix. A linear stores ``[out, in]``, the others ``[in, out]``."""


def lookup(node: fx.Node) -> Op | None:
    """Return the row of a node's op, None if the table does not know it. An in-place op has the row of its twin."""
    return lookup_name(op_name(node))


def lookup_name(name: str) -> Op | None:
    """The row of an op by its name, see :func:`lookup`."""
    if row := TABLE.get(name):
        return row
    packet, dot, overload = name.removeprefix("aten.").partition(".")
    return TABLE.get(f"aten.{packet[:-1]}{dot}{overload}") if packet.endswith("_") else None


def has(node: fx.Node, trait: Trait) -> bool:
    """Whether a node's op has a trait. In-place ops have none: no trait covers other readers of the memory."""
    row = TABLE.get(op_name(node)) if node.op == "call_function" else None
    return row is not None and trait in row.traits


def named(trait: Trait, *families: str) -> list[str]:
    """The names of all ops with a trait, in some families or in all: for tables of handlers by op."""
    return [name for name, row in TABLE.items() if trait in row.traits and (not families or row.family in families)]


def bounds(node: fx.Node) -> tuple[Any, Any] | None:
    """Bounds (low, high) of an op that clamps, min(max(x, low), high); None for any other. In-place ops give None."""
    row = TABLE.get(op_name(node)) if node.op == "call_function" else None
    if row is None or row.bounds is None:
        return None
    call = arguments(node)
    low, high = (call[bound] if isinstance(bound, str) else bound for bound in row.bounds)
    return low, high


def pads_zeros(node: fx.Node) -> bool:
    """Whether a node pads with zeros, not with another number nor with values from the border."""
    if family(node) != "pad":
        return False
    call = arguments(node)
    return "value" in call and not call["value"] and call.get("mode", "constant") == "constant"


def arguments(node: fx.Node) -> dict[str, Any]:
    """Every argument of an ATen call by its schema name, defaults filled in."""
    defaults = _defaults(node.target)
    return defaults | dict(zip(defaults, node.args, strict=False)) | dict(node.kwargs)


@functools.cache
def _defaults(target: Any) -> dict[str, Any]:
    """torch makes the list of arguments anew each time that a schema is asked for it."""
    return {argument.name: argument.default_value for argument in target._schema.arguments}


def each_dim(sizes: int | Sequence[int], count: int) -> list[int]:
    """An argument of sizes, one for each of ``count`` dims; a single one is for all."""
    given = list(sizes) if isinstance(sizes, Sequence) else [sizes]
    return given * count if len(given) == 1 else given


def border(padding: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """For each dim of a convolution, how many zeros its ``padding`` adds before and after."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        whole = [gap * (size - 1) for size, gap in zip(kernel, dilation, strict=True)]
        return [(size // 2, size - size // 2) for size in whole]
    assert not isinstance(padding, str)
    return [(size, size) for size in each_dim(padding, len(kernel))]


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set one argument of an ATen call by its schema name; the others keep their values."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    place = [a.name for a in schema].index(name)
    if name in node.kwargs or place > len(node.args) or schema[place].kwarg_only:
        node.update_kwarg(name, value)
    else:
        node.args = (*node.args[:place], value, *node.args[place + 1 :])


def family(node: fx.Node) -> str | None:
    """Return the family of a node's op, None if the table does not know it or the node calls nothing.

    A call that drops elements at random is of the family random, whatever the family of its op.
    """
    row = lookup(node) if node.op == "call_function" else None
    return None if row is None else "random" if _drops(node) else row.family


def _drops(node: fx.Node) -> bool:
    """Whether the arguments ask for dropout: of dropout itself, of a recurrent layer in training, of attention."""
    if not _has_dropout(node.target):
        return False
    call = arguments(node)
    return bool(call.get("dropout_p") or (call.get("train") and call.get("p", call.get("dropout"))))


@functools.cache
def _has_dropout(target: Any) -> bool:
    return hasattr(target, "_schema") and not _defaults(target).keys().isdisjoint(("dropout_p", "train"))


def updates_statistics(node: fx.Node) -> bool:
    """Whether a norm uses the statistics of the batch and updates its running ones: one that is in training mode.

    Not a norm without running statistics, which uses those of its input in evaluation too.
    """
    if not hasattr(node.target, "_schema"):
        return False
    call = arguments(node)
    return call.get("running_mean") is not None and bool(call.get("training") or call.get("use_input_stats"))


def running_statistics(node: fx.Node) -> list[fx.Node]:
    """The running mean and variance of a norm, which it updates in training; none for any other node."""
    if not _has_statistics(node.target):
        return []
    call = arguments(node)
    return [call[key] for key in STATISTICS if isinstance(call.get(key), fx.Node)]


@functools.cache
def _has_statistics(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and not _defaults(target).keys().isdisjoint(STATISTICS)


def find_quantized(graph: fx.Graph) -> fx.Node | None:
    """The first node that quantizes or dequantizes; None for a graph in float."""
    return next((node for node in graph.nodes if family(node) == "quant"), None)


def find_quantized_value(graph: fx.Graph) -> fx.Node | None:
    """The first node that quantizes or dequantizes a computed value; None where only stored weights are quantized."""
    found = (node for node in graph.nodes if family(node) == "quant")
    return next((node for node in found if node.all_input_nodes[0].op != "get_attr"), None)
