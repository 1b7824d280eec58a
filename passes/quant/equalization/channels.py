"""Which channels are scaled (or shifted) together: one run over a graph that assigns ids to the channels of every value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxopt import Program
from fxopt.ir.alias_analysis import alias_sets, written_sets
from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.passes.quant.equalization.channel_ids import Channels, LayerChannels
from fxopt.passes.quant.equalization.follow import follow
from fxopt.passes.quant.equalization.layers import LAYERS, channel_dim, grouped, readers, unusable

Declines = Callable[[fx.Node], str | None]
"""Why scaling (or shifting) a channel before an op is not the same as after it; None where it is."""


def find_channels(program: Program, declines: Declines) -> Channels:
    """Assign ids to the channels that layers produce, and follow them through every op that ``declines`` allows."""
    found = Channels()
    read = readers(program)
    sets = alias_sets(program.graph)
    dirty = written_sets(program.graph, sets)
    for node in program.graph.nodes:
        if node.op == "output":
            found.pin((found.ids[n] for n in node.all_input_nodes), "it is an output of the model")
        elif node.op != "call_function" or family(node) in ("size", "check"):
            found.ids[node] = _staying(node.meta.get("val"))
        elif op_name(node) in LAYERS:
            written_to = any(sets[n] in dirty for n in (node, *node.all_input_nodes))
            reason = "it is written to in place" if written_to else unusable(program, node, read)
            _pass_layer(program, found, node, declines, reason)
        elif sets[node] in dirty:
            _stop(found, node, f"{op_name(node)} is written to in place")
        elif (reason := declines(node)) or (reason := follow(found, node)):
            _stop(found, node, reason)
    found.settle()
    return found


def _pass_layer(program: Program, found: Channels, node: fx.Node, declines: Declines, left: str | None) -> None:
    if left:
        found.left[node] = left
        _stop(found, node, f"{op_name(node)} reads it, and {left}")
        return
    x: torch.Tensor = found.ids[node.args[0]]  # type: ignore[index]
    at = channel_dim(node)
    across = any(size != 1 for dim, size in enumerate(x.shape) if dim != at)
    reason = declines(node) or ("it sums over another dim than that of the channels" if across else None)
    if reason:
        found.pin([x], f"{op_name(node)} reads it, and {reason}")
        x = _staying(node.meta["val"])
    groups, outputs, inputs, _ = grouped(program, node).shape
    made = found.fresh(groups * outputs)
    found.layers.append(LayerChannels(node, made, x.flatten().expand(groups * inputs)))
    found.ids[node] = made.reshape([-1 if dim == at else 1 for dim in range(x.dim())])


def _stop(found: Channels, node: fx.Node, reason: str) -> None:
    found.pin((found.ids[n] for n in node.all_input_nodes), reason)
    found.ids[node] = _staying(node.meta.get("val"))


def _staying(value: Any) -> Any:
    """Id 0 for every channel of a value; of a list of tensors, for each."""
    if isinstance(value, (tuple, list)):
        return [_staying(v) for v in value]
    rank = value.dim() if isinstance(value, torch.Tensor) else 0
    return torch.zeros([1] * rank, dtype=torch.int64)
