"""What may stand in place of each block: built, checked, trained, and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fxopt import registry
from fxopt.errors import DataError, FxoptError, PassError, UsageError
from fxopt.ir.cost import cost
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes, size_expressions
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.block_entry import BlockEntry, BlockForm, Samples
from fxopt.pass_manager.step import tidy
from fxopt.passes.blocks.block import Block
from fxopt.passes.blocks.sample_data import sample_workload, values_on
from fxopt.passes.train.loop import train
from fxopt.passes.train.options import TrainOptions
from fxopt.passes.train.supervised import Supervised
from fxopt.support.observed import uses_module

_PER_OP = 1e-6
"""Loss that an op counts as: it breaks ties in favour of fewer ops."""


@dataclass(eq=False)
class Candidate:
    """A form in place of a block; ``divergence`` of the whole net's outputs with it alone, ``macs`` it adds to the net.

    ``latency`` is what it adds to the net's, as a share of the whole, None where it was not measured.
    """

    block: Block
    form: BlockForm
    program: Program
    macs: int
    divergence: float = 0.0
    latency: float | None = None

    @property
    def loss(self) -> float:
        """Its divergence, and what its ops count as."""
        return self.divergence + self.loss_of_ops

    @property
    def loss_of_ops(self) -> float:
        """What its ops count as."""
        return _PER_OP * len(self.program.graph.nodes)

    @property
    def is_off(self) -> bool:
        """Whether the block is left out."""
        return self.program.outputs()[0] is self.program.inputs()[0]

    def __str__(self) -> str:
        return f"{self.block.name} as {self.form}"


def library(names: Sequence[str]) -> list[BlockEntry]:
    """The entries of these names, or all. Raises UnknownNameError."""
    found: list[BlockEntry] = [registry.get("block", name) for name in names or registry.names("block")]
    for entry in found:
        uses_module(entry.function.__module__)
    return found


def build(block: Block, form: BlockForm, samples: Samples | None) -> Candidate | str:
    """A form in place of a block, or the reason why it does not apply.

    Raises PassError for a form that has another interface, and for one that fails by an error not written for users;
    UsageError where a package that it needs is not installed.
    """
    made = shared_copy(block.program)
    made.skips = []
    try:
        reason = form.build(made, samples)
        if reason:
            return reason
        tidy(made)
        derive_shapes(made)
    except UsageError:
        raise
    except FxoptError as error:
        return error.what
    except Exception as error:
        raise PassError(f"the block {form} failed in place of {block.name}: {type(error).__name__}: {error}") from error
    for now, before in zip((made.inputs()[0], made.outputs()[0]), _ends(block.program), strict=True):
        got, want = now.meta["val"], before.meta["val"]
        if size_expressions(got.shape) != size_expressions(want.shape) or got.dtype != want.dtype:
            raise PassError(
                f"the block {form} has another interface than {block.name}, in whose place it stands",
                expected=block.program.signature(),
                got=made.signature(),
            )
    if samples is not None and not _is_finite(made, samples):
        return "its output on samples is not finite"
    return Candidate(block, form, made, cost(made).macs - cost(block.program).macs)


def trained(candidate: Candidate, samples: Samples, how: TrainOptions, device: str) -> str | None:
    """Train a candidate to match the output of its block, without labels; the reason where its loss is not finite.

    The loss is mean((s - t)²) / var(t), and the weights that do best on the held-out fifth are kept, the first among them.
    """
    if not any(isinstance(t, torch.nn.Parameter) for t in candidate.program.tensors().values()):
        return None
    workload = sample_workload(candidate.block.program, samples)
    skips = len(candidate.program.skips)
    try:
        train(candidate.program, workload, how, Supervised(workload, how), device)
    except DataError as error:
        return error.what
    return candidate.program.skips[-1].reason if len(candidate.program.skips) > skips else None


def undominated(candidates: Sequence[Candidate], cost: Callable[[Candidate], float]) -> list[Candidate]:
    """Those on the Pareto front of their block by loss and cost."""
    figures = {c: (c.loss, cost(c)) for c in candidates}

    def is_beaten(candidate: Candidate) -> bool:
        mine = figures[candidate]
        rivals = (figures[c] for c in candidates if c.block is candidate.block)
        return any(theirs != mine and theirs[0] <= mine[0] and theirs[1] <= mine[1] for theirs in rivals)

    return [candidate for candidate in candidates if not is_beaten(candidate)]


def forms_of(block: Block, entries: Sequence[BlockEntry]) -> Iterator[BlockForm]:
    """The forms of a library for a block."""
    return (form for entry in entries if block.kind in entry.kinds for form in entry.forms())


def _ends(program: Program) -> tuple[torch.fx.Node, torch.fx.Node]:
    return program.inputs()[0], program.outputs()[0]


def _is_finite(program: Program, samples: Samples) -> bool:
    return bool(values_on(program, program.outputs()[0].name, samples.read[:1]).isfinite().all())
