"""The loss of a supernet: the whole against the frozen original, smaller ones against the whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt import Program
from fxopt.errors import DataError
from fxopt.ir.placement import place
from fxopt.ir.trainable_module import TrainableModule
from fxopt.ir.transfer import CPU
from fxopt.passes.supernet.elastic import ElasticProgram
from fxopt.passes.supernet.sampling import Sampler, choices
from fxopt.passes.supernet.space import find_space
from fxopt.passes.train.distill import Distilled, distill
from fxopt.passes.train.soft_labels import soft_loss
from fxopt.passes.train.supervised import are_classes
from fxopt.passes.train.teachers import Teacher
from fxopt.workload import Workload


@dataclass(frozen=True)
class Sampled:
    """Which sub-networks are trained: see the options of ``train_supernet``."""

    widths: tuple[float, ...]
    least: float
    random: int
    depth: bool


class Sandwich(Distilled):
    """The sandwich rule with in-place distillation (Yu & Huang 2019, "Universally slimmable networks", sections 3.1 and 3.2).

    Each step runs the whole, the smallest and some random sub-networks: the whole learns from the teacher, and the others
    from the outputs of the whole in this step.
    """

    keeps_last = True

    def __init__(
        self, program: Program, workload: Workload, teachers: list[Teacher], how: distill, sampled: Sampled
    ) -> None:
        super().__init__(program, workload, teachers, how)
        self.steps: torch.Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._sampled, self._kwargs = sampled, program.kwargs
        self._elastic: ElasticProgram | None = None
        self._sampler: Sampler

    def forward(self, output: Any, args: tuple[Any, ...], target: Any, module: TrainableModule) -> torch.Tensor:
        """The sum over the whole and the sub-networks of this step. Raises DataError for one whose loss is not finite."""
        loss = super().forward(output, args, target, module)
        elastic = self._over(module)
        leaves = pytree.tree_leaves((args, self._kwargs))
        wanted = pytree.tree_map(lambda v: v.detach() if isinstance(v, torch.Tensor) else v, output)
        classes = are_classes(output, target) or (isinstance(output, torch.Tensor) and output.dim() == 2)
        for subnet in [self._sampler.smallest, *self._sampler.draw(int(self.steps), self._sampled.random)]:
            part = soft_loss(
                elastic.run(subnet, leaves), wanted, 1.0, classes=classes, who=self._how.name, data=self._data
            )
            if not bool(part.detach().isfinite()):
                raise DataError(
                    f"{self._how.name}: the loss of a sub-network is {float(part.detach())} in step {int(self.steps) + 1}",
                    got=f"widths {subnet.widths}, branches off {subnet.off}",
                    way_out=f"take a lower rate than {self._how.rate:g}, or larger shares in widths",
                )
            loss = loss + part
        self.steps += 1
        return loss

    def _over(self, module: TrainableModule) -> ElasticProgram:
        """The sub-networks over the weights of the module that is trained."""
        if self._elastic is None:
            still = module.program()
            there = dataclasses.replace(still, module=module.graph_module)
            place(still, CPU)
            space = find_space(still, self._how.name).over(there)
            offered = choices(space, self._sampled.widths)
            if not self._sampled.depth:
                space = dataclasses.replace(space, layers=())
            self._elastic = ElasticProgram(space)
            self._sampler = Sampler(self._elastic, offered, self._sampled.least, self._how.seed)
        return self._elastic
