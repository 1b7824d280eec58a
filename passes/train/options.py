"""The options of training, which all passes that train share."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge, Gt, Lt

from fxopt import Pass
from fxopt.pass_manager.pass_base import Kind, Stage
from fxopt.support.options import Tune


@dataclasses.dataclass(frozen=True)
class TrainOptions(Pass):
    """How to train; a pass that trains extends it. What each option does is in the manual of ``finetune``."""

    kind: ClassVar[Kind] = "approx"
    stage: ClassVar[Stage | None] = "recover"

    epochs: Annotated[int, Ge(1), Tune(3, 40, log=True, fidelity=True), Doc("Passes over the training data.")] = 5
    rate: Annotated[float, Gt(0), Tune(5e-4, 6e-3, log=True), Doc("Highest learning rate.")] = 1e-3
    batch_size: Annotated[int, Ge(1), Doc("Examples in a batch.")] = 64
    optimizer: Annotated[Literal["adamw", "sgd"], Doc("The optimizer.")] = "adamw"
    weight_decay: Annotated[float, Ge(0), Doc("Decay of weights of two dims or more.")] = 0.02
    warmup: Annotated[float, Ge(0), Lt(1), Doc("Share of all steps in which the rate rises.")] = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(1), Doc("Share of each label that is spread over all classes.")] = 0.0
    clip: Annotated[float, Gt(0), Doc("Largest norm of the gradient.")] | None = None
    ema: (
        Annotated[
            float, Gt(0), Lt(1), Doc("Decay of the average of weights over steps, which is then judged and kept.")
        ]
        | None
    ) = None
    batch_norm: Annotated[
        Literal["live", "frozen"], Doc("Whether statistics, scale and shift of batch norms are trained or stay.")
    ] = "live"
    patience: Annotated[int, Ge(1), Doc("Epochs without a better metric after which it stops.")] | None = None
    sparsity: Annotated[float, Gt(0), Lt(1), Doc("Share of zero weights that gradual pruning ends at.")] | None = None
    precision: Annotated[
        Literal["32", "bf16-mixed", "16-mixed"], Doc("What is computed in; weights stay in float32.")
    ] = "32"
    accumulate: Annotated[int, Ge(1), Doc("Parts in which a batch is run, to need less memory.")] = 1
    seed: Annotated[int, Ge(0), Doc("Seed of the order of examples.")] = 0
    checkpoint: Annotated[str | None, Doc("Folder of checkpoints, from which a training that was stopped goes on.")] = (
        None
    )
