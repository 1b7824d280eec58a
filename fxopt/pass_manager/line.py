"""The state of a running pipeline: the present program, the steps done, the passes left."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Sequence

from fxopt.ir.cost import Cost, cost
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.shared_weights import SharedWeights
from fxopt.pass_manager.step import Step, StepResult, Watcher, run_step

_LARGE = 2**26
"""Bytes of weights from which on a step frees programs: graphs are cycles, which Python looks for by their number alone."""

_log = logging.getLogger(__name__)


class Line:
    """Passes, run one after another over ``work``, each on a copy of its own, which shares the weights.

    So a step depends on its program's contents alone: names that earlier steps used and released are free again.
    """

    def __init__(
        self,
        passes: Sequence[Pass],
        watchers: tuple[Watcher, ...],
        context: Context,
        program: Program,
        told_at: int = logging.INFO,
    ) -> None:
        """``told_at`` is the level at which the logger is told of each step."""
        self.passes, self.watchers, self.context, self.work = passes, watchers, context, program
        self.results: list[StepResult] = []
        self._told_at, self._shared = told_at, SharedWeights()
        self._cost = program, cost(program)
        program.kept_indices = {}

    @property
    def left(self) -> Sequence[Pass]:
        """The passes that are still to be run."""
        return self.passes[len(self.results) :]

    def run(self, context: Context | None = None) -> StepResult:
        """Run the next pass, in ``context`` if one is given."""
        result, self.work = self._on_copy(self.work, len(self.results), self.watchers, context or self.context)
        if result.changed and self.cost_of(self.work).bytes > _LARGE:
            gc.collect()
        self._done(result)
        return result

    def again(self, program: Program, index: int) -> Program:
        """The program after the pass of this index, which was run and verified before, from the one before it."""
        return self._on_copy(program, index, (), self.context)[1]

    def _on_copy(
        self, before: Program, index: int, watchers: tuple[Watcher, ...], context: Context
    ) -> tuple[StepResult, Program]:
        self._shared.note(before)
        work = shared_copy(before)
        after = str(self.passes[index - 1]) if index else ""
        step = Step(
            self.passes[index], index + 1, len(self.passes), after, before, context, self._shared, self.cost_of(before)
        )
        result = run_step(step, work, watchers)
        if result.cost is not None:
            self._cost = work, result.cost
        return result, work

    def cost_of(self, program: Program) -> Cost:
        """The cost of a program, which is known of the present one."""
        if self._cost[0] is not program:
            self._cost = program, cost(program)
        return self._cost[1]

    def skip_to(self, program: Program, results: list[StepResult]) -> None:
        """Go on after steps that were run before, at their program, which gets their history."""
        history = [*self.work.history, *(result.text for result in results if result.changed)]
        self.work = dataclasses.replace(program, history=tuple(history))
        last = results[-1]
        self.work.skips, self.work.choices = list(last.skips), list(last.choices)
        self.work.measurements = list(last.measurements)
        for result in results:
            self._done(result)

    def _done(self, result: StepResult) -> None:
        self.results.append(result)
        number = len(self.results)
        said = {"step": result, "number": number}
        _log.log(self._told_at, "step %d of %d, %s", number, len(self.passes), result, extra=said)
        for what, lines in (("left alone", result.skips), ("chose", result.choices), ("measured", result.measurements)):
            for line in lines:
                _log.debug("%s: %s", what, line)
