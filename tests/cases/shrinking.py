"""Small models captured, with channels zeroed that shrink may remove."""

import functools

import numpy as np
from cases.coupling_models import (
    made,
)

from fxopt import capture
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import find_groups
from fxopt.passes.prune.zeroing import zero


@functools.cache
def captured(factory, options, inputs):
    return capture(made(factory, *options), inputs)


def zeroed(program, seed, share=0.5):
    """Zero some of each group; return how many of each are left."""
    sweep = couple(program)
    dead = np.zeros(len(sweep.atoms), np.bool_)
    left, random = [], np.random.default_rng(seed)
    for group in find_groups(sweep):
        gone = random.permutation(group.atoms)[: int(len(group.atoms) * share)]
        dead[gone] = True
        left.append(len(group.atoms) - len(gone))
    zero(program, sweep, dead)
    return left
