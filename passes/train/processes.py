"""One process or several, each on a device: each trains on its share of every batch, through Lightning Fabric."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import DataError, UsageError
from fxopt.passes.train.options import TrainOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_T = TypeVar("_T")


class Processes:
    """The processes that torchrun started, or this one alone; the precision that they compute in, and on which device."""

    def __init__(self, how: TrainOptions, device: torch.device) -> None:
        try:
            import lightning_fabric  # noqa: F401
        except ImportError:
            raise UsageError(f"{how.name} needs Lightning Fabric: pip install 'fxopt[train]'") from None
        self._who, self.count = how.name, int(os.environ.get("WORLD_SIZE", "1"))
        self._fabric = _fabric(how.precision, device, self.count)
        if self.count > 1:
            self._fabric.launch()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return bool(self._fabric.is_global_zero)

    def setup(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The module, on its device, and optimizer wrapped so that gradients are averaged over all processes."""
        return self._fabric.setup(module, optimizer, move_to_device=False)

    def backward(self, loss: torch.Tensor, objective: torch.nn.Module) -> None:
        """Gradients of the loss, averaged; those of parameters of the objective too, which stand outside the model."""
        self._fabric.backward(loss)
        if self.count > 1:
            for gradient in (p.grad for p in objective.parameters() if p.grad is not None):
                gradient.copy_(self._fabric.all_reduce(gradient, reduce_op="mean"))  # type: ignore[arg-type]

    def gathering(self, model: Any, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around a part of a batch: gradients are averaged over processes at the last alone."""
        return self._fabric.no_backward_sync(model, enabled=self.count > 1 and not last)

    def clip(self, model: Any, optimizer: Any, norm: float) -> None:
        """Bound the norm of all gradients together."""
        self._fabric.clip_gradients(model, optimizer, max_norm=norm)

    def share(self, args: tuple[Any, ...], target: Any) -> tuple[tuple[Any, ...], Any]:
        """This process's rows of a batch: every so-many-th. Raises DataError for a batch with too few rows."""
        if self.count == 1:
            return args, target
        rank = self._fabric.global_rank

        def rows(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or not value.dim():
                return value
            if len(value) < self.count:
                raise DataError(f"{self._who}: a batch of {len(value)} cannot be shared by {self.count} processes")
            return value[rank :: self.count]

        return pytree.tree_map(rows, args), pytree.tree_map(rows, target)

    def agreed(self, value: _T) -> _T:
        """The value that the first process has, everywhere."""
        return value if self.count == 1 else self._fabric.broadcast(value)

    def state_dict(self) -> dict[str, Any]:
        """The scale of the loss in float16, for a checkpoint."""
        return self._fabric.strategy.precision.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._fabric.strategy.precision.load_state_dict(state)


def _fabric(precision: str, device: torch.device, count: int) -> Fabric:
    """Fabric's own choice for several processes; one process has exactly the device that it was given."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision, Precision
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy
    from lightning_fabric.strategies.strategy import Strategy

    from fxopt.passes.train.accelerator import TorchAccelerator

    rounding = Precision() if precision == "32" else MixedPrecision(precision, device.type)  # type: ignore[arg-type]
    strategy: Strategy = DDPStrategy() if count > 1 else SingleDeviceStrategy(device)
    return Fabric(
        accelerator="cpu" if device.type == "cpu" else TorchAccelerator(),
        strategy=strategy,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        plugins=[rounding],
    )
