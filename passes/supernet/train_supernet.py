"""Train the weights so that narrower and shallower sub-networks work too."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from annotated_doc import Doc
from annotated_types import Ge, Gt, Lt

from fxopt import Context, Pass, Program
from fxopt.errors import OptionError
from fxopt.pass_manager.pass_base import Stage
from fxopt.passes.supernet.sampling import SHARES
from fxopt.passes.supernet.sandwich import Sampled, Sandwich
from fxopt.passes.supernet.space import find_space
from fxopt.passes.train.distill import distill
from fxopt.passes.train.loop import train
from fxopt.passes.train.teachers import find_teachers
from fxopt.workload import given_workload


@dataclasses.dataclass(frozen=True)
class train_supernet(distill):
    """Train the weights so that narrower and shallower sub-networks work too.

    The graph stays as it is: it is the largest of many sub-networks, which use the first channels of each group and leave
    out residual branches. Run sort_channels before it, and extract_subnet after it. Each step trains four of
    them on a batch: the whole learns from the teacher as in distill, and the smallest and ``random`` others, their MACs
    drawn evenly, learn from the whole (Yu & Huang 2019, "Universally slimmable networks", section 3).

    ``widths`` are the shares of a group that may be used. No sub-network has fewer MACs than the share ``least`` of the whole.
    With depth=False no branch is left out. With soft=1, the default, no label is used. The weights after the last epoch are
    kept, since the best for the whole are not the best for its parts; the metric of this step is that of the whole with them.
    Batch norms have the statistics of the whole: run reestimate_batch_norm after extract_subnet.

    All other options are those of distill and finetune, ``checkpoint`` among them. A program in which nothing is
    elastic stays as it is. Raises DataError and PassError as they do.

    before:
        %x : f32[2,2]
        %w = param "up.weight" : f32[4,2]
        %v = param "down.weight" : f32[2,4]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    after:
        %x : f32[2,2]
        %w = param "up.weight" : f32[4,2]
        %v = param "down.weight" : f32[2,4]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    """

    name: ClassVar[str] = "train_supernet"
    stage: ClassVar[Stage | None] = None  # it recovers nothing: a search among recipes has no use for it

    soft: Annotated[float, Doc("Share of the loss that is of the teacher's soft labels; 1 looks at no label.")] = 1.0
    widths: Annotated[tuple[float, ...], Doc("Shares of a group that a sub-network may use.")] = SHARES
    least: Annotated[float, Gt(0), Lt(1), Doc("Share of the whole's MACs that a sub-network has at least.")] = 0.15
    random: Annotated[int, Ge(1), Doc("Sub-networks drawn for each step, beside the whole and the smallest.")] = 2
    depth: Annotated[bool, Doc("Whether sub-networks leave residual branches out, too.")] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or not all(0 < share <= 1 for share in self.widths):
            raise OptionError(f"{self.name}: widths are shares above 0 and up to 1, got {self.widths}")

    def in_rungs(self, *ends: int) -> tuple[Pass, ...]:
        """One part: what a supernet is worth is seen at the end of its schedule."""
        return (self,)

    def run(self, program: Program, context: Context = Context()) -> None:
        """Train, and store the weights of the last epoch."""
        workload = given_workload(context.workload, self.name, "training data")
        workload.need_data(self.name)
        space = find_space(program, self.name)
        if not space.widths and not space.layers:
            return
        teachers = find_teachers(context.original, self.teachers, self.name, context.device)
        sampled = Sampled(self.widths, self.least, self.random, self.depth)
        train(program, workload, self, Sandwich(program, workload, teachers, self, sampled), context.device)
