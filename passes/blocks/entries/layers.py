"""The layer of a block that has one, and layers put in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import DIRECT, arguments, family, set_argument
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.common.weight_modes import SplitWeight
from fxopt.passes.lowrank.find_weights import find_weights


@dataclass(frozen=True)
class Convolution:
    """A convolution with a stored weight float64 ``[out, in / groups, *kernel]``, and its arguments by name."""

    node: fx.Node
    weight: torch.Tensor
    call: dict[str, Any]

    @property
    def groups(self) -> int:
        """Groups of channels."""
        return int(self.call["groups"])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel."""
        return tuple(self.weight.shape[2:])


def only_weight(block: Program) -> SplitWeight | str:
    """The weight of the only layer of a block, or why there is none that can be exchanged."""
    skips, block.skips = block.skips, []
    found = find_weights(block)
    block.skips = skips
    layers = [node for node in block.graph.nodes if family(node) in ("contraction", "recurrent")]
    if len(layers) != 1 or len(found) != 1:
        return "it has no single layer with a stored weight"
    if not bool(found[0].tensor.isfinite().all()) or not bool(found[0].tensor.any()):
        return "its weight is zero, or not finite"
    return found[0]


def only_convolution(block: Program, *, groups: bool = False, one_pixel: bool = False) -> Convolution | str:
    """The only layer of a block, if it is a convolution; or why not.

    One with ``groups`` of channels, or with a kernel of ``one_pixel``, is one only where that is asked for.
    """
    weight = only_weight(block)
    if isinstance(weight, str):
        return weight
    (node,) = weight.readers
    if op_name(node) not in DIRECT:
        return f"{op_name(node)} is no convolution"
    found = Convolution(node, weight.tensor.detach().double(), arguments(node))
    if not one_pixel and max(found.kernel) == 1:
        return "its kernel is one pixel"
    if not groups and found.groups > 1:
        return "its channels are in groups already"
    return found


class Layers:
    """Convolutions added one after another, from the input of a convolution, to stand in its place."""

    def __init__(self, block: Program, like: Convolution) -> None:
        self.block, self.like = block, like
        self._name = str(like.call["weight"].target)
        self.value: fx.Node = like.call["input"]
        self._at = like.node

    def spatial(self, weight: torch.Tensor, *, groups: int = 1, bias: fx.Node | None = None, **changed: Any) -> None:
        """A convolution with the stride, padding and dilation of the one in whose place it stands."""
        self._add(weight, {"groups": groups, "bias": bias, **changed})

    def pointwise(self, weight: torch.Tensor, *, bias: fx.Node | None = None) -> None:
        """A convolution of one pixel, with a weight ``[out, in]``."""
        ones = [1] * len(self.like.kernel)
        padding = "valid" if isinstance(self.like.call["padding"], str) else [0] * len(ones)
        neutral = {"stride": ones, "padding": padding, "dilation": ones, "groups": 1, "bias": bias}
        self._add(weight.reshape(*weight.shape, *ones), neutral)

    def join(self, *before: fx.Node) -> None:
        """Concatenate the channels of earlier layers with those of the last."""
        self._call(torch.ops.aten.cat.default, [*before, self.value], 1)

    def select(self, channels: torch.Tensor) -> None:
        """Permute the channels by int64 ``[channels]``; nothing for the identity."""
        if torch.equal(channels, torch.arange(len(channels))):
            return
        order = self.block.add_tensor(f"{self._name}_order", channels, self.like.node, learned=False)
        self._call(torch.ops.aten.index_select.default, self.value, 1, order)

    def done(self) -> fx.Node:
        """Let the readers of the convolution read the last layer; it is returned."""
        self.block.replace(self.like.node, self.value)
        return self.value

    def _add(self, weight: torch.Tensor, changed: dict[str, Any]) -> None:
        stored = self.block.tensor(self.like.call["weight"])
        assert stored is not None
        node = self.block.add_tensor(self._name, weight.to(stored.dtype).contiguous(), self.like.node)
        given = self.like.call | {"input": self.value, "weight": node, **changed}
        self._call(self.like.node.target, *given.values())

    def _call(self, target: Any, *args: Any) -> None:
        self.value = self._at = self.block.call(target, *args, like=self._at)


def insert_relu(block: Program, before: fx.Node, last: fx.Node, value: torch.Tensor, channels: int) -> None:
    """A ReLU between two layers that clips none of ``value``, the first's output: both biases are shifted for that."""
    low = value.movedim(channels, 0).flatten(1).amin(1)
    shift = (-low).clamp_min(0)
    weight = block.tensor(arguments(last)["weight"])
    bias = block.tensor(arguments(last)["bias"])
    assert weight is not None
    moved = weight.detach().flatten(1) @ shift
    set_argument(before, "bias", block.add_tensor("bottleneck_shift", shift, before))
    last_bias = -moved if bias is None else bias.detach() - moved
    set_argument(last, "bias", block.add_tensor("bottleneck_bias", last_bias, last))
    relu = block.call(torch.ops.aten.relu.default, before, like=before)
    last.replace_input_with(before, relu)
