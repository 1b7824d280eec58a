"""Train on the captured graph, to win back what lossy steps cost."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

from fxopt import Context, Pass, Program
from fxopt.errors import UsageError
from fxopt.passes.train.loop import train
from fxopt.passes.train.options import TrainOptions
from fxopt.passes.train.supervised import Supervised
from fxopt.workload import training_workload


@dataclasses.dataclass(frozen=True)
class finetune(TrainOptions):
    """Train the weights on the workload's training data and keep the best by its validation metric.

    The graph stays as it is: what was removed stays removed, and weights of layers that are exactly zero stay zero, as
    masks of sparsify are. Every batch norm and dropout keeps its own momentum, eps and probability; with
    batch_norm="frozen" the statistics, and the scale and shift, stay what they are.

    ``epochs`` over the data in batches of ``batch_size``, shuffled by ``seed``; ``rate`` is the highest learning rate,
    reached after ``warmup`` (a share of all steps) and annealed to zero along a cosine (Loshchilov & Hutter 2017, eq. 5).
    ``weight_decay`` is for weights of two dims or more. ``label_smoothing`` is for losses on classes (Szegedy et al. 2016,
    section 7). ``clip`` bounds the norm of the gradient. ``ema`` averages the weights over steps with that decay, and the
    average is evaluated and kept. ``patience`` stops after so many epochs without a better metric. ``sparsity`` is
    what gradual magnitude pruning ends at, three quarters of the way (Zhu & Gupta 2017, eq. 1). ``precision`` "bf16-mixed"
    computes in bfloat16 where that is safe, and "16-mixed" in float16 with the loss scaled (Micikevicius et al. 2018); both
    keep the weights in float32. ``accumulate`` runs each batch in so many parts, one after another, and sums their gradients:
    memory is that of a part, while batch norms see the statistics of a part. Where the device's memory is full, a batch is
    run in twice as many parts, and that is reported. ``checkpoint`` names a folder: each epoch is saved there,
    and the same pass on the same program goes on where it was stopped, to the same weights.

    Started by torchrun, each process trains on its share of every batch; see docs/train.md.

    The metric is never worse than it was by validation: the weights as they came are a candidate too. Raises DataError for
    a workload without training data or with labels that do not fit, and for a loss that is not finite before the first epoch
    ends; later, the best weights so far are kept and that is reported. Raises PassError for a program that is quantized.

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

    name: ClassVar[str] = "finetune"

    def in_rungs(self, *ends: int) -> tuple[Pass, ...]:
        """Training to so many epochs in all, in parts: each has a short schedule of its own, from the best weights before.

        Schedules that end at each rung rank models as they will be ranked; one long schedule, cut short, does not (warm
        restarts: Loshchilov & Hutter 2017, section 3). Parts are shuffled by seeds of their own.
        Gradual pruning has one schedule, and is one part. Raises UsageError for ends that do not ascend.
        """
        if any(low >= high for low, high in itertools.pairwise((0, *ends))):
            raise UsageError(f"{self.name}: rungs end at ascending numbers of epochs, from 1 on; got {ends}")
        if self.sparsity is not None or not ends:
            return (self,)
        return tuple(
            dataclasses.replace(self, epochs=high - low, seed=self.seed + i)
            for i, (low, high) in enumerate(itertools.pairwise((0, *ends)))
        )

    def run(self, program: Program, context: Context = Context()) -> None:
        """Train, and store the weights that did best."""
        workload = training_workload(context.workload, self.name)
        train(program, workload, self, Supervised(workload, self), context.device)
