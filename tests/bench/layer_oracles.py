"""The error of each convolution at the ranks that low_rank gave it, beside other implementations at the same ranks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import tensorly
import torch
from tensorly.decomposition import partial_tucker
from tensorly.tenalg import multi_mode_dot

from fxopt import Program

OPTIONS = "ratio=0.5, form='{}'"


def layer_errors(dense: Program, run: Callable[[str], Program]) -> list[str]:
    """Lines of a table: for each form the largest and mean ratio of our error to the oracle's, over all convolutions."""
    peer = "tensorly-torch" if importlib.util.find_spec("tltorch") else "tensorly"
    lines = ["| form | oracle | convolutions | our error ÷ its, mean | worst |", "| --- " * 5 + "|"]
    for form, oracle in (("channel", "torch.linalg.svd"), ("spatial", "torch.linalg.svd"), ("tucker", peer)):
        truncated = run(f"truncate_rank({OPTIONS.format(form)})").tensors()
        small = run(f"low_rank({OPTIONS.format(form)})").tensors()
        ratios = []
        for name, old in dense.tensors().items():
            if old.dim() != 4 or old.shape[-1] == 1 or f"{name}_1" not in small:
                continue
            weight, got = old.detach().double(), truncated[name].detach().double()
            first, last = small[f"{name}_0"], small.get(f"{name}_2", small[f"{name}_1"])
            ranks = (int(last.shape[1]), int(first.shape[0]))
            best = _tucker(weight, ranks) if form == "tucker" else _svd(weight, form, ranks[1])
            ratios.append(float((got - weight).norm() / (best - weight).norm()))
        lines.append(f"| {form} | {oracle} | {len(ratios)} | {sum(ratios) / len(ratios):.4f} | {max(ratios):.4f} |")
    return lines


def _svd(weight: torch.Tensor, form: str, rank: int) -> torch.Tensor:
    """The nearest weight ``[out, in, h, w]`` whose matrix at the cut of the form has this rank."""
    order = (0, 1, 2, 3) if form == "channel" else (1, 2, 3, 0)
    moved = weight.permute(order)
    matrix = moved.flatten(1) if form == "channel" else moved.flatten(2).flatten(0, 1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    near = (left[:, :rank] * values[:rank]) @ right[:rank]
    return near.reshape(moved.shape).permute(*torch.argsort(torch.tensor(order)).tolist())


def _tucker(weight: torch.Tensor, ranks: tuple[int, int]) -> torch.Tensor:
    """The Tucker-2 form ``[out, in, h, w]`` with these ranks of outputs and inputs."""
    if importlib.util.find_spec("tltorch"):
        import tltorch

        made = tltorch.FactorizedTensor.new(
            tuple(weight.shape), rank=(*ranks, *weight.shape[2:]), factorization="Tucker"
        )
        made.init_from_tensor(weight.float())
        return made.to_tensor().detach().double()
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        (core, factors), _ = partial_tucker(
            weight, rank=list(ranks), modes=[0, 1], init="random", random_state=0, n_iter_max=200
        )
        return multi_mode_dot(core, factors, modes=[0, 1])
