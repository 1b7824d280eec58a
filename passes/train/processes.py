"""One process or several: each trains on its share of every batch, through Lightning Fabric."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import DataError, UsageError
from fxopt.passes.train.options import TrainOptions

_T = TypeVar("_T")


class Processes:
    """The processes that torchrun started, or this one alone; and the precision that they compute in."""

    def __init__(self, how: TrainOptions) -> None:
        try:
            from lightning_fabric import Fabric
        except ImportError:
            raise UsageError(f"{how.name} needs Lightning Fabric: pip install 'fxopt[train]'") from None
        self._who, self._count = how.name, int(os.environ.get("WORLD_SIZE", "1"))
        self._fabric = Fabric(
            accelerator="cpu",
            strategy="ddp" if self._count > 1 else "auto",
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
            precision="bf16-mixed" if how.precision == "bf16" else "32-true",
        )
        if self._count > 1:
            self._fabric.launch()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return bool(self._fabric.is_global_zero)

    def setup(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The module and optimizer wrapped so that gradients are averaged over all processes."""
        return self._fabric.setup(module, optimizer)

    def backward(self, loss: torch.Tensor, objective: torch.nn.Module) -> None:
        """Gradients of the loss, averaged; those of parameters of the objective too, which stand outside the model."""
        self._fabric.backward(loss)
        if self._count > 1:
            for gradient in (p.grad for p in objective.parameters() if p.grad is not None):
                gradient.copy_(self._fabric.all_reduce(gradient, reduce_op="mean"))  # type: ignore[arg-type]

    def clip(self, model: Any, optimizer: Any, norm: float) -> None:
        """Bound the norm of all gradients together."""
        self._fabric.clip_gradients(model, optimizer, max_norm=norm)

    def share(self, args: tuple[Any, ...], target: Any) -> tuple[tuple[Any, ...], Any]:
        """This process's rows of a batch: every so-many-th. Raises DataError for a batch with too few rows."""
        if self._count == 1:
            return args, target
        rank = self._fabric.global_rank

        def rows(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or not value.dim():
                return value
            if len(value) < self._count:
                raise DataError(f"{self._who}: a batch of {len(value)} cannot be shared by {self._count} processes")
            return value[rank :: self._count]

        return pytree.tree_map(rows, args), pytree.tree_map(rows, target)

    def agreed(self, value: _T) -> _T:
        """The value that the first process has, everywhere."""
        return value if self._count == 1 else self._fabric.broadcast(value)
