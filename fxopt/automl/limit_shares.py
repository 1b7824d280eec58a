"""Keeps a limit of MACs or parameters by lowering the shares that the passes of a recipe are asked to keep.

A sampler that draws shares without regard to the limit finds most recipes refused: two passes that each keep 0.7 of the
MACs already miss a limit of 0.4. Here the shares of such a recipe are lowered, by one power, until their product is the
limit, so the sampler spends its trials on recipes within it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from fxopt.automl.dimensions import Dimension
from fxopt.pass_manager.pass_base import Pass, make

_Key = TypeVar("_Key")


def lowered(
    taken: Mapping[_Key, tuple[Pass, Mapping[str, Dimension]]], limits: Mapping[str, float]
) -> dict[_Key, Pass]:
    """The lossy passes of a recipe, with the options named like a limit (``macs``) lowered until their product keeps it.

    ``taken`` has each pass with its searched dimensions; ``limits`` the share of the original that may be left, by name.
    A recipe is unchanged if one of its passes has no such share, as what that pass leaves is not known before it runs.
    """
    passes = {key: pass_ for key, (pass_, _) in taken.items()}
    for what, limit in limits.items():
        shares = {key: share for key, pass_ in passes.items() if (share := _share(pass_, what)) is not None}
        if not shares or len(shares) < len(passes) or math.prod(shares.values()) <= limit:
            continue
        free = {key: taken[key][1][what] for key in shares if what in taken[key][1]}
        for key, share in _to_product(shares, free, limit).items():
            if share != shares[key]:
                passes[key] = make(type(passes[key]), {**passes[key].options(), what: share})
    return passes


def _to_product(shares: dict[_Key, float], free: dict[_Key, Dimension], limit: float) -> dict[_Key, float]:
    """The shares with the free ones lowered by one power until the product is within the limit, or all are at their lowest."""
    found = shares
    while free:
        limit_of_free = limit / math.prod(share for key, share in found.items() if key not in free)
        product = math.prod(shares[key] for key in free)
        power = math.log(limit_of_free) / math.log(product) if product < 1 else 0.0
        wanted = {key: shares[key] ** power if power else limit_of_free ** (1 / len(free)) for key in free}
        found = {**found, **{key: dimension.at_most(wanted[key]) for key, dimension in free.items()}}
        # those at their lowest cannot go down all the way, so the others go further
        above = {key for key in free if found[key] > wanted[key] * (1 + 1e-9)}
        if not above:
            break
        free = {key: dimension for key, dimension in free.items() if key not in above}
    return found


def _share(pass_: Pass, what: str) -> float | None:
    """The share of a quantity that a pass is asked to leave; None without such an option, or where it is a count."""
    asked = getattr(pass_, what, None)
    return asked if isinstance(asked, float) and 0 < asked <= 1 else None
