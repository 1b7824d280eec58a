"""Zero what a sub-network leaves out."""

from __future__ import annotations

from typing import Annotated

from annotated_doc import Doc

from fxopt import Program, graph_pass
from fxopt.passes.prune.depth.branch_weights import zero_sites
from fxopt.passes.prune.zeroing import check_computed_weights, zero
from fxopt.passes.supernet.space import Subnet, find_space

_WHO = "zero_subnet"


@graph_pass(kind="approx")
def zero_subnet(
    program: Program,
    *,
    widths: Annotated[
        tuple[int, ...], Doc("For each elastic width, how many of its first units are used; half without.")
    ] = (),
    off: Annotated[tuple[int, ...], Doc("Numbers of the residual branches that are left out.")] = (),
) -> None:
    """Zero what a sub-network leaves out, so that drop_zero_branches and shrink can remove it.

    ``widths`` says of each elastic width how many of its first channels, heads or groups are used, in the order in which
    `fxopt explain supernet MODEL` lists them; without it half of each are. ``off`` has the numbers of the residual
    branches that are left out. After sort_channels the first ones are the most important (Cai et al. 2020, Once-for-All).

    The rest computes the same as the supernet's own sub-network. Raises OptionError for a sub-network that the program
    does not have, and PassError for a quantized program.

    before:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %v = param "down.weight" : f32[2,3] = [[1, 2, 3], [4, 5, 6]]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    after:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %v = param "down.weight" : f32[2,3] = [[1, 2, 0], [4, 5, 0]]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    """
    space = find_space(program, _WHO)
    subnet = Subnet(widths or tuple(-(-count // 2) for count in space.whole.widths), tuple(sorted(set(off))))
    space.check(subnet, _WHO)
    zero(program, space.sweep, ~space.live(subnet.widths))
    check_computed_weights(program, space.sweep, _WHO)
    zero_sites(program, [site for number in subnet.off for site in space.layers[number].sites])
