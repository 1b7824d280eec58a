"""How important every residual branch is for the program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch

from fxopt.errors import DataError, FxoptError
from fxopt.ir.placement import place
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.ir.transfer import put, repeatable
from fxopt.numerics.compute_device import seeded
from fxopt.numerics.execute import untouched
from fxopt.passes.prune.depth.branch_weights import Site
from fxopt.passes.prune.depth.layer_influence import influences
from fxopt.passes.prune.depth.residual import Branch
from fxopt.passes.prune.importance.gradients import mean_gradients, runner_for
from fxopt.workload import Data, Workload, given_workload

By = Literal["similarity", "magnitude", "taylor", "loss", "random"]

_BATCH = 32


@dataclass(frozen=True)
class ScoredBranch:
    """A branch, and the weights that make it zero."""

    branch: Branch
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class Asked:
    """The branches to score, and the data that may be used."""

    program: Program
    workload: Workload | None
    layers: tuple[ScoredBranch, ...]
    samples: int
    seed: int
    who: str
    device: str = "cpu"


def layer_scores(asked: Asked, by: By) -> list[float]:
    """A score for every layer, higher for more important.

    - ``similarity``: 1 - cosine of the stream before and after the sum, see :mod:`fxopt.passes.prune.depth.layer_influence`
    - ``magnitude``: mean |w| of the weights that are zeroed (the criterion of Kim et al. 2024, "Shortened LLaMA", is the
      sum over the whole block; the mean over the last layer can be compared between layers of different widths)
    - ``taylor``: |Σ w·dL/dw| of the weights that are zeroed: to first order what zeroing them adds to the loss
      (Molchanov et al. 2019, eq. 8, before the square)
    - ``loss``: the increase of the loss when this branch alone is zeroed (Kim et al. 2024 do so with the perplexity)
    - ``random``: uniform in [0, 1) by ``seed``

    taylor and loss are over ``samples`` training examples shuffled by ``seed``. Raises DataError without usable data.
    """
    return _CRITERIA[by](asked)


def _similarity(asked: Asked) -> list[float]:
    pairs = [(layer.branch, layer.sites) for layer in asked.layers]
    return influences(asked.program, asked.workload, pairs, asked.samples, asked.who, asked.device)


def _magnitude(asked: Asked) -> list[float]:
    twin, names = _own_weights(asked)
    weights = twin.tensors()
    return [_sum(weights[n].abs() for n in own) / sum(weights[n].numel() for n in own) for own in names]


def _taylor(asked: Asked) -> list[float]:
    twin, names = _own_weights(asked)
    slopes = mean_gradients(
        twin, asked.workload, asked.who, samples=asked.samples, seed=asked.seed, device=asked.device
    )
    weights = twin.tensors()
    return [abs(_sum(weights[n] * slopes[n] for n in own)) for own in names]


def _sum(tensors: Iterator[torch.Tensor]) -> float:
    return sum(tensor.detach().sum(dtype=torch.float64).item() for tensor in tensors)


def _random(asked: Asked) -> list[float]:
    generator = torch.Generator().manual_seed(asked.seed)
    return torch.rand(len(asked.layers), generator=generator, dtype=torch.float64).tolist()


def _loss(asked: Asked) -> list[float]:
    workload = given_workload(asked.workload, asked.who, "training data")
    data = workload.need_data(asked.who)
    size = min(_BATCH, asked.samples)
    batches = list(islice(data.batches("train", batch_size=size, seed=asked.seed), -(-asked.samples // size)))
    if not batches:
        raise DataError(f"{asked.who}: the workload {workload.name!r} gave no training batch")
    twin, names = _own_weights(asked)
    place(twin, torch.device(asked.device))
    weights = twin.tensors()
    whole = _mean_loss(twin, data, batches, asked.who)
    rises = []
    for own in names:
        saved = {name: weights[name].detach().clone() for name in own}
        with torch.no_grad():
            for name in own:
                weights[name].zero_()
            rises.append(_mean_loss(twin, data, batches, asked.who) - whole)
            for name, tensor in saved.items():
                weights[name].copy_(tensor)
    return rises


def _mean_loss(twin: Program, data: Data, batches: list[tuple[Any, Any]], who: str) -> float:
    """Mean of the batches' losses; random draws are the same in every call."""
    total = 0.0
    with seeded(twin.device, 0), repeatable(twin.device), torch.no_grad(), untouched(twin):
        for count, (args, target) in enumerate(batches, 1):
            where = f"{who}: training batch {count}"
            run = runner_for(twin, args, where)
            args, target = put((args, target), twin.device)
            try:
                loss = float(data.loss(run(*args), target))
            except FxoptError:
                raise
            except Exception as error:
                raise DataError(f"{where}: its loss failed: {type(error).__name__}: {error}") from error
            if not math.isfinite(loss):
                raise DataError(f"{where}: the loss is {loss}; look at the data, or at the weights")
            total += loss
    return total / len(batches)


def _own_weights(asked: Asked) -> tuple[Program, list[list[str]]]:
    """A copy where each weight to be zeroed has no other reader, as in a layer that runs twice; its names by layer."""
    twin = shared_copy(asked.program)
    nodes = {node.name: node for node in twin.graph.nodes}
    names: dict[Site, str] = {}
    for user, weight in (site for layer in asked.layers for site in layer.sites):
        if (user, weight) not in names:
            tensor = asked.program.tensor(weight)
            own = twin.swap_tensor(nodes[user.name], nodes[weight.name], tensor.detach().clone())  # type: ignore[union-attr]
            names[user, weight] = str(own.target)
    twin.module.recompile()
    return twin, [[names[site] for site in layer.sites] for layer in asked.layers]


_CRITERIA: dict[By, Callable[[Asked], list[float]]] = {
    "similarity": _similarity, "magnitude": _magnitude, "taylor": _taylor, "loss": _loss, "random": _random,
}  # fmt: skip
