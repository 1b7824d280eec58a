"""Sub-networks found by evolution, or at random for comparison, by their divergence and a cost."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna

from fxopt.automl.nas.view import Subnet, Supernet

_POPULATION = 24


@dataclass(frozen=True)
class Bounds:
    """Bounds of the choice: numbers of units of each width, and the least MACs."""

    offered: tuple[tuple[int, ...], ...]
    macs: float


def evolve(
    supernet: Supernet,
    bounds: Bounds,
    first: Sequence[Subnet],
    values: Callable[[Subnet], Sequence[float]],
    count: int,
    seed: int,
) -> list[Subnet]:
    """``count`` sub-networks that NSGA-II tries (Deb et al. 2002), starting with ``first``, to minimize their ``values``.

    The genes are integers: for each width the index of a choice, for each branch whether it is off.
    Equal seeds and values give equal sub-networks, so that a resumed search finds its values stored.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    digest = hashlib.sha256(f"{seed}".encode()).digest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=int.from_bytes(digest[:4], "big"))
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        for subnet in first:
            study.enqueue_trial(_genes(supernet, bounds, subnet), skip_if_exists=True)
        tried: list[Subnet] = []
        for _ in range(count):
            trial = study.ask()
            subnet = _subnet(supernet, bounds, trial)
            short = math.log(bounds.macs / max(1.0, supernet.costs(*subnet)["macs"]))
            trial.set_constraint("macs", short)
            if short <= 1e-9:
                tried.append(subnet)
                study.tell(trial, list(values(subnet)))
            else:  # below what the supernet was trained for
                study.tell(trial, [1e9, 1e9])
    return tried


def _subnet(supernet: Supernet, bounds: Bounds, trial: optuna.Trial) -> Subnet:
    widths = [counts[trial.suggest_int(f"width {i}", 0, len(counts) - 1)] for i, counts in enumerate(bounds.offered)]
    off = [i for i in range(len(supernet.layers)) if trial.suggest_int(f"branch {i} off", 0, 1)]
    return supernet.canonical(widths, off)


def _genes(supernet: Supernet, bounds: Bounds, subnet: Subnet) -> dict[str, int]:
    widths, off = subnet
    genes = {f"width {i}": bounds.offered[i].index(n) for i, n in enumerate(widths)}
    return genes | {f"branch {i} off": int(i in off) for i in range(len(supernet.layers))}
