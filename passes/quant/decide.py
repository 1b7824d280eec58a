"""The plan of a quantization: the policy, the placement, and the quantization parameters of every value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import fx

from fxopt.backend.quant_policy import Policy
from fxopt.ir.op_table import find_quantized, find_quantized_value
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.pass_manager.context import Context
from fxopt.passes.quant.annotations import place_by_annotations
from fxopt.passes.quant.calibrate import Watching, calibrate
from fxopt.passes.quant.observers import FORMATS, Affine, Calibration, Observer
from fxopt.passes.quant.placement import Placement, place
from fxopt.passes.quant.split_attention import split_attention
from fxopt.target.detect import host
from fxopt.workload import Workload

_ONCE = "quantize a layer once, after all other passes"


@dataclass(frozen=True)
class Placer:
    """Computes the placement of a program: by the backend's policy, or by a quantizer of the user's where one is named."""

    policy: Policy
    keep_float: tuple[str, ...] = ()
    quantizer: str | None = None

    def __call__(self, program: Program, left: Collection[str] = frozenset()) -> Placement:
        """The placement with the nodes named in ``left`` in float; nothing is changed."""
        if self.quantizer is not None:
            return place_by_annotations(program, self.quantizer, self.keep_float, left)
        return place(program, self.policy, self.keep_float, left)


def policy_of(context: Context) -> Policy:
    """The policy of the backend for the target that the pipeline is run for, this machine unless one is named.

    Without a backend, the default one; and without a target too, weights on which no processor's kernels overflow.
    """
    backend, target = context.backend, context.target
    if backend is None:
        return Policy(pairs_in_16_bits=target is None or target.int8_saturates)
    return backend.quant_policy(target or host())


def check_not_quantized(program: Program, way_out: str = _ONCE) -> None:
    """Raise PassError for a program whose values are quantized; quantized weights alone are no error."""
    quantized = find_quantized_value(program.graph)
    if quantized is not None:
        raise program.fail(quantized, f"the program is quantized already; {way_out}")


def expose_products(program: Program, placer: Placer) -> None:
    """Split attention into products where the backend's policy quantizes these."""
    if placer.policy.products and placer.quantizer is None:
        split_attention().run(program)
        derive_shapes(program)


def decide(program: Program, placer: Placer) -> Placement:
    """The placement; reports what stays in float. Raises PassError where everything quantizable is quantized already."""
    placement = placer(program)
    weights = find_quantized(program.graph)
    if weights is not None and not placement.layers:
        raise program.fail(weights, f"the program is quantized already; {_ONCE}")
    for node, reason in [*placement.declined.items(), *placement.notes]:
        program.skip(node, reason)
    return placement


def calibrated(
    program: Program,
    workload: Workload,
    placement: Placement,
    policy: Policy,
    *,
    images: int,
    who: str,
    calibration: Calibration = "min_max",
    also: Watching = MappingProxyType({}),
    device: str = "cpu",
) -> dict[fx.Node, Affine]:
    """The quantization parameters of every value of a placement, over ``images`` training examples; see :func:`calibrate`.

    Raises DataError in the name of ``who`` without usable data.
    """
    wanted = {owner: owner for node, owner in placement.values.items() if node not in placement.fixed}
    wanted |= {node: placement.values[node] for node in placement.pooled}
    batches = workload.calibration(images, who)
    observers = calibrate(program, batches, wanted, calibration=calibration, images=images, also=also, device=device)
    return codes_of(placement, observers, policy)


def codes_of(placement: Placement, observers: Mapping[fx.Node, Observer], policy: Policy) -> dict[fx.Node, Affine]:
    """The quantization parameters of every value, by the observer of the scale's owner."""
    usual = FORMATS[policy.activations]
    return {
        node: placement.fixed.get(node) or observers[owner].affine(placement.forms.get(owner, usual))
        for node, owner in placement.values.items()
    }
