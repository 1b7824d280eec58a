"""Recipes beside the best ones: the same passes on another backend, and a few choices changed.

A search has tens of trials for a space of twenty dimensions, so a model of the whole space knows little when the time is
over. Evolution from the front needs none (Real et al. 2019, regularized evolution; Elsken et al. 2019, LEMONADE, for several
objectives): what was found good stays, but for one to three choices. What these entail, the sampler draws.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fxopt.automl.records import Record
from fxopt.automl.space import Point, Space

_FRESH = 1 / 4
"""Share of recipes that are drawn from the whole space."""
_CHANGES = (1, 1, 1, 2, 2, 3)
"""How many choices change, each equally often."""


@dataclass(frozen=True)
class Neighbour:
    """A recipe's passes, whose options outside the space stay, and the ``parameters`` beside it."""

    passes: tuple[str, ...]
    parameters: dict[str, Any]


def elsewhere(best: Sequence[Record], known: set[Point], space: Space) -> Point | None:
    """A recipe of the front on a backend that its passes were not tried on: what they trained is there already."""
    points = (Point(record.passes, backend) for record in best for backend in space.backends)
    return next((point for point in points if point not in known), None)


def neighbour(best: Sequence[Record], space: Space, draw: random.Random) -> Neighbour | None:
    """A neighbour of a recipe of the front; None for one from the whole space."""
    if not best or draw.random() < _FRESH:
        return None
    parent = draw.choice(best)
    parameters = space.parameters(parent.point)
    changed = draw.sample(sorted(parameters), min(draw.choice(_CHANGES), len(parameters)))
    steps = {name: space.dimension(name).step(parameters[name], draw) for name in changed}
    return Neighbour(parent.passes, parameters | steps)
