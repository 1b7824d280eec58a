"""The options of training, which all passes that train share."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from fxopt import Pass
from fxopt.pass_manager.pass_base import Kind, Stage
from fxopt.support.options import Tune


@dataclasses.dataclass(frozen=True)
class TrainOptions(Pass):
    """How to train; a pass that trains extends it. What each option does is in the manual of ``finetune``."""

    kind: ClassVar[Kind] = "approx"
    stage: ClassVar[Stage | None] = "recover"

    epochs: Annotated[int, Ge(1), Tune(3, 40, log=True, fidelity=True)] = 5
    rate: Annotated[float, Gt(0), Tune(5e-4, 6e-3, log=True)] = 1e-3
    batch_size: Annotated[int, Ge(1)] = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, Ge(0)] = 0.02
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    clip: Annotated[float, Gt(0)] | None = None
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    batch_norm: Literal["live", "frozen"] = "live"
    patience: Annotated[int, Ge(1)] | None = None
    sparsity: Annotated[float, Gt(0), Lt(1)] | None = None
    precision: Literal["float32", "bf16"] = "float32"
    seed: Annotated[int, Ge(0)] = 0
    checkpoint: str | None = None
