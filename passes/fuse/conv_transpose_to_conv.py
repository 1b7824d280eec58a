"""Write transposed convolutions as ordinary ones."""

from __future__ import annotations

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments, each_dim
from fxopt.passes.fuse.stored_weight import reform

aten = torch.ops.aten


@graph_pass(assumes_finite=True)  # zeros that fill up a kernel make NaN of infinities
def conv_transpose_to_conv(program: Program) -> None:
    """Rewrite 2-d transposed convolutions as ordinary convolutions.

    With a stride of s, each of the s * s phases of the output has weights of its own: they become as many channels, which
    are then laid out as squares (sub-pixel convolution: Shi et al. 2016, "Is the deconvolution layer the same as a
    convolutional layer?"). A kernel whose size is no multiple of the stride is padded with zeros, and as many more
    products are computed. Declined for a dilated kernel with a stride, for a weight that is computed, and where the
    output is wider than the kernel reaches.

    before:
        %x : f32[2,3,4,4]
        %w = param "up.weight" : f32[3,5,2,2]
        %y = aten.conv_transpose2d.input(%x, %w, None, [2, 2])
        return %y
    after:
        %x : f32[2,3,4,4]
        %w = param "up.weight_reformed" : f32[20,3,1,1]
        %a = aten.conv2d(%x, %w, None, [1, 1], [0, 0], [1, 1], 1)
        %b = aten.unflatten.int(%a, 1, [1, 2, 2, 5])
        %c = aten.permute(%b, [0, 1, 4, 5, 2, 6, 3])
        %d = aten.flatten.using_ints(%c, 5, 6)
        %e = aten.flatten.using_ints(%d, 3, 4)
        %y = aten.flatten.using_ints(%e, 1, 2)
        return %y
    """
    for node in program.find("aten.conv_transpose2d.input"):
        if reason := _rewrite(program, node):
            program.skip(node, f"it stays transposed: {reason}")


def _rewrite(program: Program, node: fx.Node) -> str | None:
    """Rewrite one; return why not if it cannot be."""
    call = arguments(node)
    if node.meta["val"].dim() != 4:
        return "it convolves one example without a batch"
    kernel, groups = list(call["weight"].meta["val"].shape[2:]), call["groups"]
    stride, padding, more, gaps = (
        each_dim(call[name], 2) for name in ("stride", "padding", "output_padding", "dilation")
    )
    squares = list(zip(kernel, stride, padding, more, gaps, strict=True))
    if any(gap > 1 and step > 1 for _, step, _, _, gap in squares):
        return "its kernel has gaps, and it has a stride"
    taps = [-(-size // step) for size, step, *_ in squares]
    border = [(count - 1) * gap for count, (*_, gap) in zip(taps, squares, strict=True)]
    beyond = [  # positions computed beyond the last that is needed
        (count - 1) * gap * step + step + pad - (size - 1) * gap - 1 - extra
        for count, (size, step, pad, extra, gap) in zip(taps, squares, strict=True)
    ]
    if min(beyond) < 0:
        return "its output is wider than its kernel reaches"
    for dim, step in enumerate(stride):  # what is cut off on both sides need not be computed
        spare = min(padding[dim] // step, beyond[dim] // step, border[dim])
        border[dim] -= spare
        padding[dim] -= spare * step
        beyond[dim] -= spare * step

    def form(weight: torch.Tensor) -> torch.Tensor:
        return _sub_pixel(weight, groups, stride, taps)

    weight = reform(program, call["weight"], form, axis=None)
    if weight is None:
        return "its weight is computed, or quantized with scales along a dim"
    bias, places = call["bias"], stride[0] * stride[1]
    if bias is not None and places > 1:
        bias = reform(
            program, bias, lambda b: b.unflatten(0, (groups, 1, -1)).expand(-1, places, -1).flatten(), axis=None
        )
        if bias is None:
            return "its bias is computed"
    last = program.call(aten.conv2d.default, call["input"], weight, bias, [1, 1], border, gaps, groups, like=node)
    if places > 1:
        outputs = node.meta["val"].shape[1] // groups
        last = program.call(aten.unflatten.int, last, 1, [groups, *stride, outputs], like=last)
        last = program.call(aten.permute.default, last, [0, 1, 4, 5, 2, 6, 3], like=last)
        for first in (5, 3, 1):
            last = program.call(aten.flatten.using_ints, last, first, first + 1, like=last)
    for dim, (pad, rest) in enumerate(zip(padding, beyond, strict=True), start=2):
        if pad or rest:
            last = program.call(aten.slice.Tensor, last, dim, pad, -rest if rest else None, like=last)
    program.replace(node, last)
    return None


def _sub_pixel(weight: torch.Tensor, groups: int, stride: list[int], taps: list[int]) -> torch.Tensor:
    """Weight [in, out / groups, r, s] as [phases * out, in / groups, taps, taps], in each group phase by phase."""
    (down, across), (rows, columns) = stride, taps
    r, s = weight.shape[2:]
    full = torch.nn.functional.pad(weight, (0, columns * across - s, 0, rows * down - r))
    apart = full.unflatten(0, (groups, -1)).unflatten(4, (columns, across)).unflatten(3, (rows, down))
    # [groups, in, out, rows, down, columns, across] -> [groups, down, across, out, in, rows, columns]
    turned = apart.permute(0, 4, 6, 2, 1, 3, 5).flip(-1, -2)
    return turned.flatten(0, 3).contiguous()
