"""Losses of a student's outputs against a teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.workload import Data, Distillable


def soft_loss(
    student: Any, teacher: Any, temperature: float, *, classes: bool, who: str, data: Data | None = None
) -> torch.Tensor:
    """How far a student's outputs are from a teacher's, a mean over the batch and the floating outputs.

    What ``data`` say of it, where they are :class:`fxopt.workload.Distillable`. Otherwise:
    ``classes``: outputs are scores [N, C, ...] and the loss is T² · KL(softmax(t/T) ‖ softmax(s/T)), of which the gradient
    does not shrink with T (Hinton et al. 2015, section 2.1). Otherwise the squared error over the teacher's variance (Ba &
    Caruana 2014, eq. 1). Raises DataError where structures or shapes differ.
    """
    ours, spec = pytree.tree_flatten(student)
    theirs, other = pytree.tree_flatten(teacher)
    if spec != other or any(
        getattr(a, "shape", None) != getattr(b, "shape", None) for a, b in zip(ours, theirs, strict=True)
    ):
        raise DataError(
            f"{who}: the outputs of teacher and student do not match: {_shapes(theirs)} and {_shapes(ours)}",
            way_out="take a teacher of the same task",
        )
    if isinstance(data, Distillable):
        return data.soft_loss(student, teacher)
    losses = []
    for s, t in zip(ours, theirs, strict=True):
        if not isinstance(s, torch.Tensor) or not s.is_floating_point():
            continue
        if classes and s.dim() >= 2:
            log_s, log_t = F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1)
            positions = s.numel() // s.shape[1]
            losses.append(temperature**2 * F.kl_div(log_s, log_t, reduction="sum", log_target=True) / positions)
        else:
            losses.append((s - t).square().mean() / t.var(correction=0).clamp_min(1e-12))
    if not losses:
        raise DataError(f"{who}: the model has no floating output to learn from")
    return torch.stack(losses).mean()


def _shapes(leaves: list[Any]) -> str:
    return ", ".join(str(list(v.shape)) if isinstance(v, torch.Tensor) else str(v) for v in leaves)
