"""Train on the captured graph with a teacher."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import torch
from annotated_doc import Doc
from annotated_types import Ge, Gt, Le

from fxopt import Context, Program
from fxopt.ir.trainable_module import TrainableModule
from fxopt.passes.train.features import Features, Transfer, find_pairs
from fxopt.passes.train.finetune import finetune
from fxopt.passes.train.loop import train
from fxopt.passes.train.objective import Objective
from fxopt.passes.train.soft_labels import soft_loss
from fxopt.passes.train.supervised import Supervised, are_classes
from fxopt.passes.train.teachers import Teacher, find_teachers
from fxopt.support.options import Tune, With
from fxopt.workload import Workload, given_workload


@dataclasses.dataclass(frozen=True)
class distill(finetune):
    """Train the weights to match a teacher (knowledge distillation).

    The teacher is the program that the pipeline began with, before all lossy steps, or ``teachers``, named as models are.
    The loss is (1 - soft) · that of the labels + soft · that of the teacher's soft labels at ``temperature`` (Hinton et al.
    2015), averaged over several teachers; where the workload's data have a ``soft_loss(output, teacher)`` of their own, as a
    detector's do, that one. With soft=1 no label is used, so that recorded inputs are enough.
    ``features`` adds ``feature_weight`` times the distance of inner values of student and first teacher:
    "hint" (Romero et al. 2015) or "attention" (Zagoruyko & Komodakis 2017), between values of the same resolution; which
    ones is reported. All other options are those of finetune.

    Raises DataError and PassError as finetune does, and DataError for a teacher with other inputs or outputs.

    before:
        %x : f32[2,2]
        %w = param "fc.weight" : f32[2,2] = [[1, 0], [0, 1]]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,2]
        %w = param "fc.weight" : f32[2,2]
        %y = aten.linear(%x, %w)
        return %y
    """

    name: ClassVar[str] = "distill"

    teachers: Annotated[tuple[str, ...], Doc("Models to learn from, instead of the program as it was.")] = ()
    temperature: Annotated[float, Gt(0), Doc("Temperature of the soft labels.")] = 4.0
    soft: Annotated[
        float,
        Gt(0),
        Le(1),
        Tune(choices=(0.5, 0.7, 0.9)),
        Doc("Share of the loss that is of the teacher's soft labels; 1 looks at no label."),
    ] = 0.9
    features: Annotated[Transfer, Doc("How inner values are matched, too.")] = "none"
    feature_weight: Annotated[float, Ge(0), With(features="hint"), Doc("Weight of the loss of inner values.")] = 1.0

    def run(self, program: Program, context: Context = Context()) -> None:
        """Train, and store the weights that did best."""
        workload = given_workload(context.workload, self.name, "training data")
        workload.need_data(self.name)
        teachers = find_teachers(context.original, self.teachers, self.name, context.device)
        train(program, workload, self, Distilled(program, workload, teachers, self), context.device)


class Distilled(Objective):
    """The loss of labels, of soft labels, and of inner values."""

    def __init__(self, program: Program, workload: Workload, teachers: list[Teacher], how: distill) -> None:
        super().__init__()
        self._how, self._teachers, self._data = how, teachers, workload.need_data(how.name)
        self._labels = Supervised(workload, how) if how.soft < 1 else None
        self.features: Features | None = None
        if how.features != "none":
            pairs = find_pairs(program, teachers[0].program)
            output = program.graph.output_node().all_input_nodes[0]
            if not pairs:
                raise program.fail(
                    output, f"{how.name}: {teachers[0].name} has no value of a resolution of the student's"
                )
            program.skip(output, f"{how.features} transfer between {', '.join(map(str, pairs))}")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(how.seed)
                self.features = Features(pairs, how.features)
            self.watched = tuple(pair.student for pair in pairs)
            teachers[0].watched = tuple(pair.teacher for pair in pairs)

    def forward(self, output: Any, args: tuple[Any, ...], target: Any, module: TrainableModule) -> torch.Tensor:
        """The weighted sum over one batch."""
        loss, seen = self._soft(output, args, target)
        loss = self._how.soft * loss
        if self._labels is not None:
            loss = loss + (1 - self._how.soft) * self._labels.smoothed(output, target)
        if self.features is not None:
            ours = [module.seen[name] for name in self.watched]
            loss = loss + self._how.feature_weight * self.features(ours, seen)
        return loss

    def validation(self, output: Any, args: tuple[Any, ...], target: Any) -> torch.Tensor:
        """The loss of the labels, or of the soft ones where no others are used."""
        if self._labels is not None:
            return self._labels.validation(output, args, target)
        return self._soft(output, args, target)[0]

    def _soft(self, output: Any, args: tuple[Any, ...], target: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        classes = are_classes(output, target) or (
            target is None and isinstance(output, torch.Tensor) and output.dim() == 2
        )
        losses: list[torch.Tensor] = []
        seen: list[torch.Tensor] = []
        for teacher in self._teachers:
            answer, values = teacher(args)
            far = soft_loss(output, answer, self._how.temperature, classes=classes, who=self._how.name, data=self._data)
            losses.append(far)
            seen = seen or values
        return torch.stack(losses).mean(), seen
