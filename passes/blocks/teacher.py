"""The original program on calibration examples: inputs and outputs of its blocks, and the divergence of another's outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.ir.transfer import take
from fxopt.numerics.execute import started
from fxopt.pass_manager.block_entry import Samples
from fxopt.passes.blocks.block import Block
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.common.run_until import values_until
from fxopt.passes.train.soft_labels import soft_loss
from fxopt.workload import Workload


class Teacher:
    """A program with its outputs on batches of flat inputs."""

    def __init__(self, program: Program, batches: Sequence[list[Any]], who: str, device: str = "cpu") -> None:
        """``device`` is where it and other programs run; their values come back to the CPU."""
        self.program, self.batches, self._who, self.device = program, batches, who, device
        self._nodes = {node.name: node for node in program.graph.nodes}
        with torch.no_grad(), placed(program, device):
            self._outputs = [_run(program, leaves) for leaves in self.batches]

    @classmethod
    def of_data(
        cls, program: Program, workload: Workload | None, samples: int, who: str, device: str = "cpu"
    ) -> Teacher:
        """On training examples. Raises DataError in the name of ``who`` without data that fit."""
        return cls(program, list(calibration_batches(program, workload, samples, who)), who, device)

    @classmethod
    def of_example(cls, program: Program, who: str, device: str = "cpu") -> Teacher:
        """On the example inputs."""
        return cls(program, [program.example_leaves()], who, device)

    def samples(self, block: Block) -> Samples:
        """Inputs and outputs of a block on all examples."""
        source, end = self._nodes[block.source], self._nodes[block.end]
        with torch.no_grad(), placed(self.program, self.device):
            found = [take(values_until(self.program, leaves, {source, end})) for leaves in self.batches]
        return Samples(torch.cat([v[source] for v in found]), torch.cat([v[end] for v in found]))

    def divergence(self, program: Program) -> float:
        """How far the outputs of another program of the same interface are from those of this one, a mean over batches.

        Kullback-Leibler divergence in nats for scores [N, classes], otherwise squared error over variance; infinite where
        the other's are not finite.
        """
        with torch.no_grad(), placed(program, self.device):
            return self._mean([_run(program, leaves) for leaves in self.batches])

    def divergences(self, block: Block, programs: Sequence[Program]) -> list[float]:
        """:meth:`divergence` with each of ``programs`` in place of a block. The nodes before the block are run once."""
        end, source = self._nodes[block.end], self._nodes[block.source]
        after = _after(self.program, end)
        read = {n for node in (*after, self.program.graph.output_node()) for n in node.all_input_nodes}
        wanted = {n for n in read if n not in after and n is not end} | {source}
        given: list[list[list[Any]]] = [[] for _ in programs]
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for one in (self.program, *programs):
                stack.enter_context(placed(one, self.device))
            for leaves in self.batches:
                known = values_until(self.program, leaves, wanted)
                for outputs, program in zip(given, programs, strict=True):
                    outputs.append(self._from(after, known | {end: program.module(known[source])}))
        return [self._mean(outputs) for outputs in given]

    def _from(self, after: dict[fx.Node, None], known: dict[fx.Node, Any]) -> list[Any]:
        """The outputs, from some known values: only the nodes after them are run."""
        run = started(fx.Interpreter(self.program.module), [])
        run.env = dict(known)
        for node in after:
            run.env[node] = run.run_node(node)
        return take(_floating([run.env[out] for out in self.program.outputs() if out in run.env]))

    def _mean(self, given: Sequence[list[Any]]) -> float:
        losses = [self._loss(outputs, wanted) for outputs, wanted in zip(given, self._outputs, strict=True)]
        mean = sum(losses) / len(losses)
        return max(0.0, mean) if mean == mean else float("inf")

    def _loss(self, outputs: list[Any], wanted: list[Any]) -> float:
        scores = len(wanted) == 1 and wanted[0].dim() == 2 and wanted[0].shape[1] > 1
        return float(soft_loss(outputs, wanted, 1.0, classes=scores, who=self._who))


def _run(program: Program, leaves: list[Any]) -> list[Any]:
    nodes = {out for out in program.outputs() if isinstance(out, fx.Node)}
    values = values_until(program, leaves, nodes)
    return take(_floating([values[out] for out in program.outputs() if out in values]))


def _floating(values: list[Any]) -> list[Any]:
    return [v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()]


def _after(program: Program, end: fx.Node) -> dict[fx.Node, None]:
    """The nodes that depend on a node, in order."""
    found: dict[fx.Node, None] = {}
    for node in program.graph.nodes:
        if node.op != "output" and any(n is end or n in found for n in node.all_input_nodes):
            found[node] = None
    return found
