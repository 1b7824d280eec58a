"""Programs in which some of the layers are quantized, all from one calibration, and how good they are."""

from __future__ import annotations

from fxopt.passes.quant.calibrate import calibrate
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.mixed.judge import Judge
from fxopt.passes.quant.observers import FORMATS, Affine
from fxopt.passes.quant.placement import place
from fxopt.pipeline import tidy
from fxopt.program import Program
from fxopt.qdq import Policy


class Trials(Judge):
    """Trials of one float program, whose batch norms are folded and which is ready for ``insert_qdq`` otherwise.

    ``ranges`` gives the code of every value that the full placement quantizes, by the node's name. Layers are named by
    their nodes' names; those of ``keep_float`` are none. Raises DataError without usable data.
    """

    def __init__(
        self, program: Program, policy: Policy, ranges: dict[str, Affine], who: str, keep_float: tuple[str, ...] = ()
    ) -> None:
        super().__init__(program, who)
        self.policy, self.ranges, self.keep_float = policy, ranges, keep_float
        self.layers = tuple(node.name for node in place(program, policy, keep_float).layers)

    def quantized(self, left: frozenset[str]) -> Program:
        """A copy in which all layers are quantized but those ``left`` in float; shapes of new nodes are not derived."""
        twin = self.program.copy()
        placement = place(twin, self.policy, self.keep_float, left)
        ranges = {node: self.ranges[node.name] for node in placement.values}
        codes = encode_layers(twin, placement.layers, ranges, self.policy)
        emit(twin, placement, ranges, codes, per_channel=self.policy.per_channel)
        tidy(twin)
        return twin


def observed_ranges(program: Program, policy: Policy, images: int, who: str) -> dict[str, Affine]:
    """Calibrate the values of the full placement; their codes by the node's name."""
    owners = place(program, policy, ()).values
    assert program.context.workload is not None
    batches = program.context.workload.calibration(images, who)
    observers = calibrate(program, batches, dict.fromkeys(owners.values()), images=images)
    return {node.name: observers[owner].affine(FORMATS[policy.activations]) for node, owner in owners.items()}
