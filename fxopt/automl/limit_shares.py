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
        product = math.prod(shares.values())
        if not shares or len(shares) < len(passes) or product <= limit:
            continue
        power = math.log(limit) / math.log(product) if product < 1 else 0.0
        for key, share in shares.items():
            wanted = share**power if power else limit ** (1 / len(shares))
            dimension = taken[key][1].get(what)
            if dimension is not None:
                passes[key] = make(type(passes[key]), {**passes[key].options(), what: dimension.at_most(wanted)})
    return passes


def _share(pass_: Pass, what: str) -> float | None:
    """The share of a quantity that a pass is asked to leave; None without such an option, or where it is a count."""
    asked = getattr(pass_, what, None)
    return asked if isinstance(asked, float) and 0 < asked <= 1 else None
