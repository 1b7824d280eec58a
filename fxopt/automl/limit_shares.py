"""A limit of MACs or parameters is kept by what the passes are asked for, where they are asked for a share of these.

A sampler that draws shares without regard to the limit finds most recipes refused: of two passes that keep 0.7 of the MACs
each, half of all cannot be reached. Here the shares of such a recipe are lowered, by one power, until their product is the
limit; so the sampler spends its trials on what is within.
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
    """The passes that lose accuracy, with options named as a limit, such as ``macs``, lowered to keep it in product.

    ``taken`` has each pass with the dimensions that vary; ``limits`` the share of the original that may be left, by name.
    A recipe stays as it is if one of its passes is asked in another way, as what that leaves is not known before it is run.
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
    """What a pass is asked to leave of something; None where it is not asked so, or for a number instead of a share."""
    asked = getattr(pass_, what, None)
    return asked if isinstance(asked, float) and 0 < asked <= 1 else None
