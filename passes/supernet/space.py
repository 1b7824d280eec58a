"""What is elastic in a program: how many channels of each group are used, and which residual branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fxopt import Program
from fxopt.errors import OptionError
from fxopt.ir.op_table import find_quantized
from fxopt.ir.shared_copy import shared_copy
from fxopt.passes.prune.choice.candidates import candidates
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.analysis import couple, needed
from fxopt.passes.prune.coupling.groups import Unit
from fxopt.passes.prune.coupling.leftover import report_pinned, why
from fxopt.passes.prune.coupling.permutation import exchangeable
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.depth.layer_importance import ScoredBranch
from fxopt.passes.prune.depth.removable_layers import removable_layers
from fxopt.passes.prune.depth.residual import Branch
from fxopt.passes.prune.zeroing import zero


@dataclass(frozen=True)
class Subnet:
    """A sub-network: of each width of a space how many units are used, and the numbers of the branches that are off."""

    widths: tuple[int, ...]
    off: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Width:
    """Channels, heads or groups of which the first ones are used. ``atoms`` are in the order of their indices."""

    name: str
    unit: Unit
    atoms: NDArray[np.int64]


@dataclass(frozen=True)
class Space:
    """All that is elastic in a program; whatever is pinned, and one index of every dim, is always used."""

    sweep: Sweep
    widths: tuple[Width, ...]
    layers: tuple[ScoredBranch, ...]

    @property
    def program(self) -> Program:
        """The program whose weights are shared."""
        return self.sweep.program

    @property
    def whole(self) -> Subnet:
        """The sub-network that is everything."""
        return Subnet(tuple(len(width.atoms) for width in self.widths))

    @property
    def least(self) -> Subnet:
        """One unit of each width, all branches off."""
        return Subnet((1,) * len(self.widths), tuple(range(len(self.layers))))

    def check(self, subnet: Subnet, who: str) -> None:
        """Raise OptionError for a sub-network of another space."""
        if len(subnet.widths) != len(self.widths):
            raise OptionError(
                f"{who}: widths has {len(subnet.widths)} numbers, the program has {len(self.widths)} elastic widths",
                way_out="`fxopt explain supernet MODEL` lists them, in this order",
            )
        for width, count in zip(self.widths, subnet.widths, strict=True):
            if not 1 <= count <= len(width.atoms):
                raise OptionError(f"{who}: {width.name} has 1 to {len(width.atoms)} {width.unit}, got {count}")
        if stray := [number for number in subnet.off if not 0 <= number < len(self.layers)]:
            raise OptionError(f"{who}: there are {len(self.layers)} branches, numbered from 0; got {stray[0]}")

    def live(self, widths: Sequence[int]) -> NDArray[np.bool_]:
        """Which atoms are used, bool ``[len(sweep.atoms)]``."""
        live = np.ones(len(self.sweep.atoms), np.bool_)
        for width, count in zip(self.widths, widths, strict=True):
            live[width.atoms[count:]] = False
        return live | self._always

    def over(self, program: Program) -> Space:
        """The same space over the nodes, of equal names, and weights of another program, such as one that is trained.

        What is elastic has to be found in evaluation: a batch norm in training looks at a whole batch.
        """
        named = {node.name: node for node in program.graph.nodes}
        twins = {node: named[node.name] for node in self.program.graph.nodes if node.name in named}
        layers = []
        for layer in self.layers:
            branch = layer.branch
            moved = Branch(
                twins[branch.total],
                twins[branch.stream],
                twins[branch.end],
                frozenset(twins[node] for node in branch.nodes),
                branch.weights,
            )
            layers.append(ScoredBranch(moved, tuple((twins[user], twins[weight]) for user, weight in layer.sites)))
        return Space(self.sweep.over(program, twins), self.widths, tuple(layers))

    @cached_property
    def _always(self) -> NDArray[np.bool_]:
        """Atoms that are needed so that no dim is empty where all widths are one."""
        live = np.ones(len(self.sweep.atoms), np.bool_)
        for width in self.widths:
            live[width.atoms[1:]] = False
        always = np.zeros_like(live)
        for node in self.sweep.axes:
            for axis in self.sweep.all_axes(node):
                for rows in map(self.sweep.resolve, ax.arrays(axis)):
                    missing = ~live[rows]
                    if missing.any(1).all():
                        revived = rows[missing.sum(1).argmin()]
                        live[revived] = always[revived] = True
        return always


def find_space(program: Program, who: str) -> Space:
    """What is elastic in a program; what is not is reported with the reason.

    The channels of a coupling group are one width where they can be permuted, so that :mod:`sort_channels
    <fxopt.passes.prune.sort_channels>` brings the important ones to the front, and several where a slice separates some of
    them from the rest. Channels that shrink cannot remove when they are zero are not elastic: a sub-network without them
    would compute something else. Raises PassError for a quantized program.
    """
    quantized = find_quantized(program.graph)
    if quantized is not None:
        raise program.fail(quantized, f"{who}: the program is quantized; train a supernet first, quantize after it")
    sweep = couple(program)
    widths = []
    for exchange in exchangeable(sweep, candidates(program, sweep, (), (), who)):
        parts = [atoms for atoms in exchange.classes if len(atoms) > 1]
        for number, atoms in enumerate(parts, 1):
            name = exchange.group.name + (f" part {number}" if len(parts) > 1 else "")
            widths.append(Width(name, exchange.group.unit, atoms))
    widths = _removable(program, widths)
    layers = removable_layers(program, (), who)
    report_pinned(program, sweep)
    if not widths and not layers:
        program.skip(
            program.graph.output_node(), "nothing is elastic: no channels, no heads and no branch can be left out"
        )
    return Space(sweep, tuple(widths), layers)


def _removable(program: Program, widths: list[Width]) -> list[Width]:
    """The widths that shrink reduces to one unit, once the others are zero, whatever the weights are."""
    while widths:
        twin = shared_copy(program)
        random = torch.Generator().manual_seed(0)
        twin.set_tensors(
            {
                name: torch.rand(tensor.shape, generator=random).add(0.5).to(tensor.dtype)
                for name, tensor in twin.tensors().items()
                if isinstance(tensor, torch.nn.Parameter)
            }
        )
        sweep = couple(twin)
        dead = ~Space(sweep, tuple(widths), ()).live([1] * len(widths))
        zero(twin, sweep, dead)
        found = needed(sweep)
        stays = found.live & (found.cause != 0) & dead
        stuck = [width for width in widths if stays[width.atoms].any()]
        if not stuck:
            break
        for width in stuck:
            atom = width.atoms[stays[width.atoms]][0]
            reason = why(sweep, int(found.cause[atom]))
            node = next(n for n in program.graph.nodes if n.name == reason.node.name)
            program.skip(node, f"{len(width.atoms)} {width.unit} of {width.name} are not elastic: {reason.text}")
        widths = [width for width in widths if width not in stuck]
    return widths
