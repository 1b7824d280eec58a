"""A trained supernet as a search uses it: its sub-networks, their costs and their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt import Context, Pipeline, Program
from fxopt.ir.alias_analysis import make_functional
from fxopt.ir.placement import placed
from fxopt.ir.shared_copy import shared_copy
from fxopt.ir.transfer import put, take
from fxopt.numerics.error_metrics import relative_error
from fxopt.numerics.execute import untouched
from fxopt.numerics.float64 import to_float64, widen
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.supernet.costs import Costs
from fxopt.passes.supernet.elastic import ElasticProgram
from fxopt.passes.supernet.extract_subnet import extract_subnet
from fxopt.passes.supernet.sampling import SHARES, Sampler, choices
from fxopt.passes.supernet.space import Subnet, find_space

_WHO = "supernet"


class Supernet:
    """Sub-networks of a program, given as ``(widths, off)``: how many units of each width, and branches that are off.

    Outputs are those of sub-networks whose batch norms have statistics of their own inputs over ``images`` training
    examples, where there are data.
    """

    def __init__(self, program: Program, context: Context, images: int = 256) -> None:
        twin = shared_copy(program)
        make_functional(twin)
        self.space = find_space(twin, _WHO)
        self._program, self._context, self._images = program, context, images
        self._elastic = ElasticProgram(self.space)
        self._costs = Costs(self._elastic)
        self.names = tuple(width.name for width in self.space.widths)
        self.layers = tuple(layer.branch.total.name for layer in self.space.layers)

    def offered(self, shares: Sequence[float] = SHARES) -> tuple[tuple[int, ...], ...]:
        """Of each width the numbers of units to choose from, ascending."""
        return choices(self.space, shares)

    def canonical(self, widths: Sequence[int], off: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The canonical spelling: equal for equal sub-networks."""
        found = self._elastic.canonical(Subnet(tuple(widths), tuple(off)))
        return found.widths, found.off

    def draw(
        self, offered: Sequence[Sequence[int]], count: int, least: float, seed: int
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The smallest of those with ``least`` of the whole's MACs or more, and others at random, their MACs spread evenly."""
        sampler = Sampler(self._elastic, offered, least, seed)
        return [(s.widths, s.off) for s in (sampler.smallest, *sampler.draw(0, count - 1))]

    def costs(self, widths: Sequence[int], off: Sequence[int]) -> dict[str, float]:
        """``macs`` and ``params``."""
        subnet = Subnet(tuple(widths), tuple(off))
        return {"macs": self._costs.macs(subnet), "params": self._costs.parameters(subnet)}

    def features(self, widths: Sequence[int], off: Sequence[int]) -> dict[str, float]:
        """Features that predict latency: MACs and elements by kind of layer."""
        return self._costs.features(Subnet(tuple(widths), tuple(off)))

    def outputs(self, widths: Sequence[int], off: Sequence[int], batches: Sequence[list[Any]]) -> list[list[Any]]:
        """Flat outputs for batches of flat inputs."""
        subnet = Subnet(tuple(widths), tuple(off))
        with torch.no_grad(), placed(self.space.program, self._context.device) as there, untouched(there):
            seen = self._calibration
            every = put([*seen, *batches], there.device)
            found = take(self._elastic.run_all(subnet, every, estimate_from=len(seen))[len(seen) :])
        return [pytree.tree_leaves(output) for output in found]

    def passes(self, widths: Sequence[int], off: Sequence[int]) -> tuple[str, ...]:
        """The passes that make a sub-network a program of its own."""
        again = ("reestimate_batch_norm",) if self._calibration and self._norms else ()
        return (str(extract_subnet(widths=tuple(widths), off=tuple(off))), *again)

    def proof(self, widths: Sequence[int], off: Sequence[int]) -> float:
        """Largest relative error in float64 of the extracted program against the supernet's own sub-network."""
        wide = to_float64(self._program, to_run_passes=True)
        leaves = [widen(value) for value in wide.example_leaves()]
        small = Pipeline.of(extract_subnet(widths=tuple(widths), off=tuple(off))).run(wide, watchers=()).program
        with torch.no_grad(), untouched(wide), untouched(small):
            own = ElasticProgram(find_space(wide, _WHO)).run(Subnet(tuple(widths), tuple(off)), leaves)
            extracted = small.module(*wide.args, **wide.kwargs)
        pairs = zip(pytree.tree_leaves(own), pytree.tree_leaves(extracted), strict=True)
        return max(relative_error(a, b) for a, b in pairs)

    @cached_property
    def _calibration(self) -> list[list[Any]]:
        workload = self._context.workload
        if workload is None or workload.data is None:
            return []
        return list(calibration_batches(self._program, workload, self._images, _WHO))

    @property
    def _norms(self) -> bool:
        return any(True for _ in self._program.find("aten.batch_norm"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "widths": [
                {"name": w.name, "unit": w.unit, "count": len(w.atoms)} for w in self.space.widths
            ],
            "branches": [
                {"sum": layer.branch.total.name, "weights": list(layer.branch.weights)} for layer in self.space.layers
            ],
            "stays": [str(skip) for skip in self.space.program.skips],
        }  # fmt: skip

    def text(self) -> str:
        """Lines for a console."""
        lines = [f"{len(self.space.widths)} elastic widths, in the order of zero_subnet(widths=…):", ""]
        for number, width in enumerate(self.space.widths):
            lines.append(f"{number:>4}  {len(width.atoms):>6} {width.unit:<10} {width.name.split(' ')[0]}")
        lines += ["", f"{len(self.space.layers)} branches that may be off, by number:", ""]
        for number, layer in enumerate(self.space.layers):
            lines.append(f"{number:>4}  %{layer.branch.total.name}: {', '.join(layer.branch.weights[:4])}")
        stays = [f"    {skip}" for skip in self.space.program.skips]
        return "\n".join([*lines, "", "these stay:" if stays else "nothing else stays", *stays])


def supernet(program: Program, context: Context = Context()) -> Supernet:
    """Show what a sub-network may leave out: widths of channels, heads and groups, and residual branches."""
    return Supernet(program, context)
