"""int8 weights on x86 before VNNI, where pairs of products of bytes are added in 16 bits and may overflow.

The instruction VPMADDUBSW multiplies unsigned bytes, the activations, by signed ones, the weights, adds the products in
pairs and saturates the sums to 16 bits. A pair is safe for all activations if its positive weights sum to at most 128
and its negative ones to at least -128: 255 · 128 = 32640 < 32768. Weights of opposite sign need no limit, as their
products cancel. Nothing here needs torch, so that artifacts can be checked when they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fxopt.errors import BackendError
from fxopt.target.detect import host
from fxopt.target.target import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIMIT = 128
"""Largest magnitude of the sum of the weights of one sign in a pair."""
OVERFLOWS = "overflows_in_16_bits"
"""The key in an artifact's facts for the result of :func:`overflows`, set by a backend whose kernels add pairs."""
_SHOWN = 8
"""How many layers a message lists."""


@dataclass(frozen=True, eq=False)
class IntegerWeight:
    """A weight as an artifact holds it: ``codes`` int8 ``[out, in / groups, *kernel]`` of the layer called ``layer``."""

    layer: str
    codes: NDArray[np.int8]
    groups: int = 1


def adds_pairs(shape: tuple[int, ...], groups: int) -> bool:
    """Whether kernels add pairs for a weight of ``shape`` ``[out, in / groups, *kernel]``.

    Not so for depthwise filters over a line or an image (``groups`` of one input and one output channel): there kernels
    accumulate each channel in a 32-bit lane of its own.
    """
    return not (2 < len(shape) < 5 and shape[1] == 1 and shape[0] == groups)


def heaviest_pairs(weight: NDArray[Any]) -> NDArray[Any]:
    """The largest sum of one sign in a pair of ``weight`` ``[out, in / groups, *kernel]``, as ``[out]`` >= 0.

    Kernels multiply in the order of kernel positions, then channels. Pairs are elements 2i and 2i + 1 of that whole order
    (ONNX Runtime, after im2col) or within each position (its kernels without im2col, and OpenVINO): both are checked. A
    pair that straddles two of these is never added.
    """
    import numpy as np

    out = len(weight)
    by_position = np.moveaxis(weight.reshape(out, weight.shape[1], -1), 1, -1)
    found = np.zeros(out, np.result_type(weight.dtype, np.int16))
    for order in (by_position.reshape(out, 1, -1), by_position):
        even = np.pad(order, [(0, 0), (0, 0), (0, order.shape[-1] % 2)])
        pairs = even.reshape(out, -1, 2).astype(found.dtype)
        for side in (pairs, -pairs):
            found = np.maximum(found, side.clip(0).sum(-1).max(-1, initial=0))
    return found


def overflows(weights: Iterable[IntegerWeight]) -> list[dict[str, Any]]:
    """The layers whose weights can overflow: ``layer``, its ``channels`` that do, ``of`` how many, and the ``worst`` sum."""
    import numpy as np

    found = []
    for weight in weights:
        if not adds_pairs(weight.codes.shape, weight.groups):
            continue
        sums = heaviest_pairs(weight.codes)
        channels = np.flatnonzero(sums > LIMIT)
        if len(channels):
            found.append(
                {
                    "layer": weight.layer,
                    "channels": channels.tolist(),
                    "of": len(sums),
                    "worst": int(sums.max()),
                }
            )
    return found


def check_weights(facts: dict[str, Any], backend: str, target: Target) -> None:
    """Raise BackendError where an artifact has weights on which the int8 kernels for its target overflow."""
    found = facts.get(OVERFLOWS, ())
    if found and target.int8_saturates:
        raise BackendError(
            f"the int8 weights of {len(found)} layer(s) overflow in the kernels of {backend} for {target.name!r}, "
            f"x86 without VNNI, which add products in pairs in 16 bits:\n{described(found)}",
            way_out=(
                "quantize for this backend and target, in one pipeline with them, or leave the layers in "
                "float: quantize(keep_float=(…,))"
            ),
        )


def cannot_run_here(facts: dict[str, Any]) -> str | None:
    """Why this processor's int8 kernels would compute other values than an artifact with these facts was built for, or None."""
    found = facts.get(OVERFLOWS, ())
    if not found or not host().int8_saturates:
        return None
    return (
        f"int8 weights of {len(found)} layer(s) that this processor, x86 without VNNI, cannot multiply without overflow:\n"
        f"{described(found)}\n  build it for x86 without VNNI: -t x86_64_v3, or -t host on this machine"
    )


def described(found: list[dict[str, Any]]) -> str:
    """The result of :func:`overflows` as text."""
    lines = [
        f"    {one['layer']}: channel {', '.join(map(str, one['channels'][:4]))}{' …' * (len(one['channels']) > 4)} "
        f"({len(one['channels'])} of {one['of']}); a pair sums to {one['worst']}, {LIMIT} is safe"
        for one in found[:_SHOWN]
    ]
    return "\n".join(lines + [f"    … and {len(found) - _SHOWN} more layers"] * (len(found) > _SHOWN))
