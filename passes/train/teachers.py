"""Teachers: programs, in evaluation, whose outputs and inner values a student learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.ir.placement import place
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.ir.trainable_module import Watching
from fxopt.passes.train.layout import use_channels_last
from fxopt.workload import find_workload
from fxopt.workload.batching import fixed_batch, in_batches


def find_teachers(original: Program | None, names: Sequence[str], who: str, device: str = "cpu") -> list[Teacher]:
    """The workloads of these names; without any, the ``original`` program.

    Raises UnknownNameError, and DataError where there is no such program, or a teacher takes other inputs.
    """
    if names:
        found = [(name, find_workload(name).capture()) for name in names]
    elif original is not None:
        found = [("the original program", original)]
    else:
        raise DataError(f"{who} has no teacher: run it in a pipeline after a lossy pass, or name teachers=('digits',)")
    return [Teacher(name, teacher, who, device) for name, teacher in found]


class Teacher:
    """A program that answers without gradients, with the values of some of its nodes."""

    def __init__(self, name: str, program: Program, who: str, device: str = "cpu") -> None:
        """``device`` is where it computes: its inputs are there, and its answers."""
        self.name, self.program, self._who = name, shared_copy(program), who
        place(self.program, torch.device(device))
        use_channels_last(self.program, self.program.module)
        self._run = in_batches(self._once, fixed_batch(program))
        self.watched: tuple[str, ...] = ()

    def __call__(self, args: tuple[Any, ...]) -> tuple[Any, list[torch.Tensor]]:
        """Outputs in their structure, and the values of the watched nodes in order. Raises DataError where it fails."""
        try:
            with torch.no_grad():
                output, *seen = self._run(*args)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"{self._who}: {self.name} does not take the student's inputs: {error}") from error
        return output, seen

    def _once(self, *args: Any) -> tuple[Any, ...]:
        watching = Watching(self.program.module, self.watched)
        output = watching.run(*pytree.arg_tree_leaves(*args), enable_io_processing=False)
        return self.program.graph.process_outputs(output), *(watching.seen[name] for name in self.watched)
