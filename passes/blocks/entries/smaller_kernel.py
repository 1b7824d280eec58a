"""A smaller kernel in place of a larger one."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from fxopt.ir.op_table import each_dim
from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.entries.layers import Layers, only_convolution
from fxopt.passes.blocks.least_squares import fit, output_of
from fxopt.support.options import Tune


@block_entry("unit")
def smaller_kernel(
    block: Program, samples: Samples | None, *, size: Annotated[int, Ge(1), Tune(choices=(3, 1))] = 3
) -> str | None:
    """A convolution with a smaller kernel, refitted by least squares.

    The kernel is cut at its border to ``size`` pixels in every dim, with as much less padding, and the weights are those with
    the least squared error of the output on samples. It needs samples: the middle of a kernel alone says little.
    """
    found = only_convolution(block, groups=True)
    if isinstance(found, str):
        return found
    kernel = found.kernel
    if samples is None:
        return "it needs samples of what the block reads"
    if any(k < size or (k - size) % 2 for k in kernel) or all(k == size for k in kernel):
        return f"no kernel of {size} pixels lies in the middle of one of {' x '.join(map(str, kernel))}"
    dilation, padding = each_dim(found.call["dilation"], len(kernel)), found.call["padding"]
    cut = [(k - size) // 2 for k in kernel]
    if padding == "valid":
        return "its border is not padded"
    if padding != "same":
        padding = [p - c * d for p, c, d in zip(each_dim(padding, len(kernel)), cut, dilation, strict=True)]
        if min(padding) < 0:
            return "its border is not padded"
    want = output_of(block, found.node, samples.read)
    middle = found.weight[(slice(None), slice(None), *(slice(c, c + size) for c in cut))]
    layers = Layers(block, found)
    layers.spatial(middle, groups=found.groups, bias=found.call["bias"], padding=padding)
    fit(block, layers.done(), samples.read, want)
    return None
