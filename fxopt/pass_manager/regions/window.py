"""Translation-invariant regions: they are run on images just large enough to have every kind of position.

The result of convolutions, pools and element-wise ops at a position depends on a window of their input, on its phase in the
strides, and on the distance of the borders if the window reaches beyond them. An image of a few windows has all of these
kinds, so two such maps that agree on it agree on larger ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from fxopt.ir.op_table import CONVOLUTIONS, Trait, arguments, each_dim, has
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.pass_manager.regions.region import Region

_POOLS = tuple(f"aten.{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3))

_ELEMENTS = 4096
"""A leaf keeps at least as many elements in each example, so that edge values are combined."""


@dataclass(frozen=True)
class _Window:
    """Receptive field of a position, by spatial dim: extent in pixels, reach beyond the border, stride."""

    size: tuple[int, ...]
    border: tuple[int, ...]
    stride: tuple[int, ...]

    def then(self, kernel: Sequence[int], border: Sequence[int], stride: Sequence[int]) -> _Window:
        """The window of a kernel over a value that has this one."""
        return _Window(
            tuple(n + (k - 1) * s for n, k, s in zip(self.size, kernel, self.stride, strict=True)),
            tuple(n + b * s for n, b, s in zip(self.border, border, self.stride, strict=True)),
            tuple(a * b for a, b in zip(self.stride, stride, strict=True)),
        )

    def beside(self, other: _Window) -> _Window:
        """The union of both windows."""
        both = zip((self.size, self.border), (other.size, other.border), strict=True)
        size, border = (tuple(map(max, a, b)) for a, b in both)
        return _Window(size, border, self.stride)


class NoWindow(Exception):
    """The region has an op that is not translation-invariant, or not known to be."""


class Places:
    """Finds smaller images for regions between two programs."""

    def __init__(self, before: Program, after: Program) -> None:
        self._programs = {id(before.graph): before, id(after.graph): after}

    def smaller(self, region: Region, shapes: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
        """Spatial sizes for leaves of these shapes, [N, C, *spatial]; None where they must not change."""
        spatial = {tuple(shape[2:]) for shape in shapes}
        if len(spatial) != 1 or not (sizes := spatial.pop()) or len(shapes) != len(region.leaves):
            return None
        try:
            window = self._of(region, len(sizes))
        except NoWindow:
            return None
        channels = max(1, min(shape[1] for shape in shapes))
        least = math.ceil((_ELEMENTS / channels) ** (1 / len(sizes)))
        made = []
        for size, seen, border, stride in zip(sizes, window.size, window.border, window.stride, strict=True):
            enough = max(least, 2 * (seen + border) + stride)
            made.append(min(size, enough + (size - enough) % stride))  # in phase with the strides at the far border
        return tuple(made)

    def _of(self, region: Region, dims: int) -> _Window:
        whole = _Window((1,) * dims, (0,) * dims, (1,) * dims)
        seen: dict[fx.Node, _Window] = dict.fromkeys(region.leaves, whole)
        for node in region.old:
            self._add(node, seen, dims)
        seen |= {node: seen[was] for node, was in region.cut.items() if was in seen}
        for node in region.new:
            self._add(node, seen, dims)
        a, b = seen.get(region.was, whole), seen.get(region.goal, whole)
        if a.stride != b.stride:
            raise NoWindow
        return a.beside(b)

    def _add(self, node: fx.Node, seen: dict[fx.Node, _Window], dims: int) -> None:
        varying = [operand for operand in node.all_input_nodes if operand in seen]
        if not varying:
            return
        name, window = op_name(node), seen[varying[0]]
        if name in CONVOLUTIONS or name in _POOLS:
            seen[node] = window.then(*self._slides(node, varying, dims))
        elif name == "aten.batch_norm" and varying == [arguments(node)["input"]] and not arguments(node)["training"]:
            seen[node] = window
        elif has(node, Trait.ELEMENTWISE):
            for operand in node.all_input_nodes:
                if operand not in seen:
                    self._check_constant(operand, dims)
                elif seen[operand].stride != window.stride:
                    raise NoWindow
                else:
                    window = window.beside(seen[operand])
            seen[node] = window
        else:
            raise NoWindow

    def _slides(self, node: fx.Node, varying: list[fx.Node], dims: int) -> tuple[list[int], list[int], list[int]]:
        """Extent, border and stride of the window of a convolution or pool."""
        call = arguments(node)
        if varying != [call["input" if "input" in call else "self"]] or call.get("ceil_mode"):
            raise NoWindow
        kernel = call["kernel_size"] if "kernel_size" in call else self._shape(call["weight"])[2:]
        kernel = each_dim(kernel, dims)
        if len(kernel) != dims:
            raise NoWindow
        dilation = each_dim(call.get("dilation", 1), dims)
        stride = each_dim(call["stride"] or kernel, dims)
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        return extent, each_dim(call["padding"], dims), stride

    def _check_constant(self, node: fx.Node, dims: int) -> None:
        """Check that a broadcast constant is the same at every position."""
        if any(size != 1 for size in self._shape(node)[-dims:]):
            raise NoWindow

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        tensor = self._programs[id(node.graph)].tensor(node) if node.op == "get_attr" else None
        if tensor is None:
            raise NoWindow
        return tuple(tensor.shape)
