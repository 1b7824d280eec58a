"""The library for the blocks of a program: candidates, built, trained and scored; and why others are out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fxopt.errors import DataError, OptionError
from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import BlockEntry, BlockForm
from fxopt.passes.blocks.block import Block
from fxopt.passes.blocks.candidates import Candidate, build, forms_of
from fxopt.passes.blocks.teacher import Teacher
from fxopt.passes.blocks.training_rungs import train_in_rungs
from fxopt.passes.blocks.wanted_blocks import is_named
from fxopt.passes.train.finetune import finetune
from fxopt.support.progress import progress_bar

_SAID = 3
"""Reasons that are reported of a block without candidates."""


class Library:
    """Candidates for the blocks of a program, built and trained; those that are out are reported as skips."""

    def __init__(self, program: Program, teacher: Teacher, how: finetune | None, who: str, *, has_data: bool) -> None:
        self.program, self.teacher, self.how = program, teacher, how
        self._who, self._has_data = who, has_data
        self._nodes = {node.name: node for node in program.graph.nodes}

    def explicit(self, found: Sequence[Block], wanted: Sequence[tuple[str, BlockForm]]) -> list[Candidate]:
        """The candidates that are asked for, outermost blocks first; every form that does not apply is reported."""
        chosen: list[Candidate] = []
        for block in found:
            form = next(
                (form for pattern, form in wanted if is_named(block, pattern) and block.kind in form.entry.kinds), None
            )
            if form is None:
                continue
            around = next((c for c in chosen if c.block.overlaps(block)), None)
            if around is not None:
                self._out(block, form, f"it is a part of {around.block.name}, which becomes {around.form}")
            else:
                chosen += self._built(block, [form], told=True)
        for pattern, form in wanted:
            if not any(is_named(block, pattern) and block.kind in form.entry.kinds for block in found):
                kinds = " or ".join(form.entry.kinds)
                raise OptionError(
                    f"{self._who}: {pattern!r} names no block that can become {form.entry.name}: a {kinds}"
                )
        return self.trained(chosen, lambda _: 0.0)

    def built(self, found: Sequence[Block], entries: Sequence[BlockEntry], *, timed: bool) -> list[Candidate]:
        """All candidates, untrained; those without fewer MACs only where latency is ``timed``."""
        every: list[Candidate] = []
        with progress_bar(self._who, len(found)) as advance:
            for block in found:
                every += self._built(block, list(forms_of(block, entries)), told=False, timed=timed)
                advance(1)
        return every

    def trained(self, candidates: Sequence[Candidate], cost: Callable[[Candidate], float]) -> list[Candidate]:
        """The candidates behind training, if they are to be trained, without those that cheaper ones clearly beat."""
        if self.how is None or not self._has_data:
            return list(candidates)
        left: list[Candidate] = []
        with progress_bar(f"{self._who}: training blocks", len(candidates)) as advance:
            for block in {c.block.name: c.block for c in candidates}.values():
                some, samples = [c for c in candidates if c.block is block], self.teacher.samples(block)
                if len(samples.read) < 2:
                    raise DataError(
                        f"{self._who}: one example is too few to train on and to hold out", way_out="give more samples"
                    )
                left += train_in_rungs(some, samples, self.how, self.teacher.device, cost, self._candidate_out)
                advance(len(some))
        return left

    def scored(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates, with their divergence, without those with which the outputs are not finite."""
        for block in {c.block.name: c.block for c in candidates}.values():
            some = [candidate for candidate in candidates if candidate.block is block]
            losses = self.teacher.divergences(block, [candidate.program for candidate in some])
            for candidate, loss in zip(some, losses, strict=True):
                candidate.divergence = loss
                if loss == float("inf"):
                    self._out(block, candidate.form, "with it the outputs are not finite")
        return [candidate for candidate in candidates if candidate.divergence < float("inf")]

    def _built(self, block: Block, forms: Sequence[BlockForm], *, told: bool, timed: bool = True) -> list[Candidate]:
        samples = self.teacher.samples(block) if self._has_data and forms else None
        found, reasons = [], []
        for form in forms:
            made = build(block, form, samples)
            if isinstance(made, str):
                reasons.append(f"not {form}, {made}")
                if told:
                    self._out(block, form, made)
            elif not timed and made.macs >= 0:
                reasons.append(f"not {form}, which has no fewer MACs")
            else:
                found.append(made)
        if reasons and not found and not told:
            what = f"{block.name} stays: {'; '.join(reasons[:_SAID])}"
            self.program.skip(
                self._nodes[block.end], what + f"; and {len(reasons) - _SAID} more" * (len(reasons) > _SAID)
            )
        return found

    def _candidate_out(self, candidate: Candidate, reason: str) -> None:
        self._out(candidate.block, candidate.form, reason)

    def _out(self, block: Block, form: BlockForm, reason: str) -> None:
        self.program.skip(self._nodes[block.end], f"{block.name} is not {form}: {reason}")
