"""Rewrite 1-d and 3-d convolutions as 2-d convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import Trait, arguments, border, each_dim, family, lookup
from fxopt.ir.printer import op_name
from fxopt.passes.fuse.images import Images
from fxopt.passes.fuse.stored_weight import reform

aten = torch.ops.aten
_CONVOLUTIONS = (
    "aten.conv1d", "aten.conv1d.padding", "aten.conv_transpose1d", "aten.conv3d", "aten.conv3d.padding",
)  # fmt: skip
_BROADCAST = (
    "aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor", "aten.maximum", "aten.minimum",
)  # fmt: skip
_CODES = ("quantized_decomposed.quantize_per_tensor", "quantized_decomposed.dequantize_per_tensor")


@graph_pass
def conv_to_2d(program: Program) -> None:
    """Rewrite 1-d and 3-d convolutions as 2-d convolutions.

    Compilers for small devices have their best kernels for those. A row of positions is an image of one line; a volume is
    as many images as it is deep, and a kernel that reaches over several of them reads them as more channels of one.
    Between such convolutions values stay images, through what is done element by element, pools over a line,
    concatenations of channels, and the mean over a line.

    before:
        %x : f32[2,3,8]
        %w = param "conv.weight" : f32[4,3,3]
        %y = aten.conv1d(%x, %w)
        %z = aten.relu(%y)
        return %z
    after:
        %x : f32[2,3,8]
        %w = param "conv.weight_reformed" : f32[4,3,1,3]
        %a = aten.unsqueeze(%x, 2)
        %y = aten.conv2d(%a, %w, None, [1, 1], [0, 0], [1, 1], 1)
        %z = aten.relu(%y)
        %c = aten.squeeze.dim(%z, 2)
        return %c
    """
    images = Images(program)
    handlers: dict[str, Callable[[Images, fx.Node], fx.Node | None]] = {
        **dict.fromkeys(_CONVOLUTIONS, _convolve),
        **dict.fromkeys(_BROADCAST, _broadcast), "aten.cat": _cat, "aten.mean.dim": _mean,
        "aten.max_pool1d": _pool, "aten.avg_pool1d": _pool,
    }  # fmt: skip
    for node in list(program.graph.nodes):
        if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        handler = handlers.get(op_name(node), _elementwise)
        if (image := handler(images, node)) is not None:
            images.stand_for(node, image)


def _convolve(images: Images, node: fx.Node) -> fx.Node | None:
    call, rank = arguments(node), node.meta["val"].dim()
    if rank != call["weight"].meta["val"].dim():
        images.program.skip(node, "it convolves one example without a batch")
        return None
    kernel = list(call["weight"].meta["val"].shape[2:])
    stride, dilation = (each_dim(call[name], rank - 2) for name in ("stride", "dilation"))
    sides = border(call["padding"], kernel, dilation)
    if any(before != after for before, after in sides):
        images.program.skip(node, "its border is not as wide on one side as on the other")
        return None
    padding = [size for size, _ in sides]
    depths = (call["input"].meta["val"].shape[2], node.meta["val"].shape[2])
    if rank == 5 and not all(isinstance(depth, int) for depth in depths):
        images.program.skip(node, "its depth can vary")
        return None
    weight = _weight(images, call["weight"], node)
    data = images.of(call["input"], node)
    if rank == 3:
        if op_name(node) == "aten.conv_transpose1d":
            more = [0, *each_dim(call["output_padding"], 1)], call["groups"], [1, *dilation]
            target = aten.conv_transpose2d.input
            return images.call(node, target, data, weight, call["bias"], [1, *stride], [0, *padding], *more)
        sizes = [1, *stride], [0, *padding], [1, *dilation]
    else:
        if kernel[0] > 1 or stride[0] > 1 or padding[0]:
            data = _neighbours(images, node, data, depths, kernel[0], stride[0], padding[0], dilation[0])
        sizes = stride[1:], padding[1:], dilation[1:]
    return images.call(node, aten.conv2d.default, data, weight, call["bias"], *sizes, call["groups"])


def _neighbours(
    images: Images,
    node: fx.Node,
    data: fx.Node,
    depths: tuple[int, int],
    taps: int,
    stride: int,
    padding: int,
    gap: int,
) -> fx.Node:
    """For each output image, the slices of depth that the kernel reads, as ``taps`` times the channels.

    Of dequantized images the quantized values are moved, so that integer kernels can read them.
    """
    coded = op_name(data) == "quantized_decomposed.dequantize_per_tensor"
    source, zero = (data.args[0], data.args[2]) if coded else (data, 0)
    volume = images.call(node, aten.unflatten.int, source, 0, [-1, depths[0]])
    if padding:
        volume = images.call(node, aten.constant_pad_nd.default, volume, [0] * 6 + [padding] * 2, zero)
    reach = (depths[1] - 1) * stride + 1
    firsts = [tap * gap for tap in range(taps)]
    taken = [images.call(node, aten.slice.Tensor, volume, 1, first, first + reach, stride) for first in firsts]
    stacked = images.call(node, aten.stack.default, taken, 3)
    channels = images.call(node, aten.flatten.using_ints, stacked, 2, 3)
    moved = images.call(node, aten.flatten.using_ints, channels, 0, 1)
    return images.call(node, data.target, moved, *data.args[1:]) if coded else moved


def _weight(images: Images, weight: fx.Node, layer: fx.Node) -> fx.Node:
    """[out, in, w] as [out, in, 1, w], and [out, in, d, h, w] as [out, in * d, h, w]."""
    line = weight.meta["val"].dim() == 3
    new = reform(images.program, weight, lambda w: w.unsqueeze(2) if line else w.flatten(1, 2), axis=0)
    if new is not None:
        return new
    target, args = (aten.unsqueeze.default, (2,)) if line else (aten.flatten.using_ints, (1, 2))
    return images.call(layer, target, weight, *args)


def _elementwise(images: Images, node: fx.Node) -> fx.Node | None:
    name, source = op_name(node), node.args[0] if node.args else None
    if not images.known(source) or "memory_format" in node.kwargs:
        return None
    row = lookup(node)
    unary = family(node) == "unary" and row is not None and Trait.ELEMENTWISE in row.traits
    if not unary and not name.startswith(_CODES):
        return None
    assert isinstance(source, fx.Node)
    return images.call(node, node.target, images.of(source, node), *node.args[1:], **node.kwargs)


def _broadcast(images: Images, node: fx.Node) -> fx.Node | None:
    if not any(map(images.known, node.args)):
        return None
    operands = [images.beside(arg, node) for arg in node.args]
    if None in operands:
        return None
    return images.call(node, node.target, *operands, **node.kwargs)


def _cat(images: Images, node: fx.Node) -> fx.Node | None:
    call = arguments(node)
    if not all(map(images.known, call["tensors"])) or call["dim"] % node.meta["val"].dim() != 1:
        return None
    return images.call(node, aten.cat.default, [images.of(part, node) for part in call["tensors"]], 1)


def _mean(images: Images, node: fx.Node) -> fx.Node | None:
    call = arguments(node)
    source = call["self"]
    line = images.known(source) and source.meta["val"].dim() == 3
    if not line or call["dim"] not in ([2], [-1]) or call["dtype"] is not None:
        return None
    mean = images.call(node, aten.mean.dim, images.of(source, node), [2, 3], call["keepdim"])
    if call["keepdim"]:
        return mean
    images.program.replace(node, mean)
    return None


def _pool(images: Images, node: fx.Node) -> fx.Node | None:
    call = arguments(node)
    if not images.known(call["self"]):
        return None
    size, stride, padding = (each_dim(call[name], 1) for name in ("kernel_size", "stride", "padding"))
    window = [1, *size], [1, *(stride or size)], [0, *padding]
    if op_name(node) == "aten.max_pool1d":
        target, more = aten.max_pool2d.default, ([1, *each_dim(call["dilation"], 1)], call["ceil_mode"])
    else:
        target, more = aten.avg_pool2d.default, (call["ceil_mode"], call["count_include_pad"])
    return images.call(node, target, images.of(call["self"], node), *window, *more)
