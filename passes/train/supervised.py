"""The loss of a workload's own data and labels."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from fxopt.errors import DataError
from fxopt.ir.trainable_module import TrainableModule
from fxopt.passes.train.objective import Objective
from fxopt.passes.train.options import TrainOptions
from fxopt.workload import Workload, training_workload


class Supervised(Objective):
    """The workload's loss, with label smoothing where asked for."""

    def __init__(self, workload: Workload, how: TrainOptions) -> None:
        super().__init__()
        self._data, self._how = training_workload(workload, how.name).need_data(how.name), how

    def forward(self, output: Any, args: tuple[Any, ...], target: Any, module: TrainableModule) -> torch.Tensor:
        """The mean loss over the batch. Raises DataError for labels that are no classes of the model."""
        return self.smoothed(output, target)

    def validation(self, output: Any, args: tuple[Any, ...], target: Any) -> torch.Tensor:
        """The same without smoothing."""
        check_labels(output, target, self._how.name)
        return self._data.loss(output, target)

    def smoothed(self, output: Any, target: Any) -> torch.Tensor:
        """(1 - ε) · loss + ε · the mean loss over all classes (Szegedy et al. 2016, section 7)."""
        check_labels(output, target, self._how.name)
        loss = self._data.loss(output, target)
        share = self._how.label_smoothing
        if not share:
            return loss
        if not are_classes(output, target):
            raise DataError(
                f"{self._how.name}: label_smoothing is for class labels int64 [N] and scores [N, classes]; "
                "leave it out for this workload"
            )
        return (1 - share) * loss - share * F.log_softmax(output, 1).mean()


def check_labels(output: Any, target: Any, who: str) -> None:
    """Raise DataError where class labels int64 [N] are no classes of the scores [N, classes]."""
    if are_classes(output, target) and not bool(((target >= 0) & (target < output.shape[1])).all()):
        low, high, classes = int(target.min()), int(target.max()), output.shape[1]
        raise DataError(f"{who}: labels run from {low} to {high}, the model has {classes} classes, 0 to {classes - 1}")


def are_classes(output: Any, target: Any) -> bool:
    """Whether it is scores [N, classes] and a class label for each."""
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
        return False
    return output.dim() == 2 and target.dim() == 1 and not target.is_floating_point() and len(target) == len(output)
