"""Two programs with the same nodes, run side by side, node by node, over all batches at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.program import Program
from fxopt.running import started


class Lockstep:
    """Values of both programs for every batch; each is freed after its last reader. Weights may be set on the way."""

    def __init__(self, before: Program, after: Program, batches: list[list[Any]]) -> None:
        self.before, self.after = (
            [started(fx.Interpreter(program.module, garbage_collect_values=False), leaves) for leaves in batches]
            for program in (before, after)
        )
        self.leaves, self._after = batches, after
        self._nodes = [{node.name: node for node in program.graph.nodes} for program in (before, after)]
        self.names = [node.name for node in after.graph.nodes if node.op != "output"]
        self._freed: dict[str, list[str]] = {}
        order = {name: i for i, name in enumerate(self._nodes[1])}
        for node in after.graph.nodes:
            last = max([node, *node.users], key=lambda n: order[n.name])
            self._freed.setdefault(last.name, []).append(node.name)

    def run(self, name: str) -> None:
        """Run one node in both programs."""
        for runs, nodes in zip((self.before, self.after), self._nodes, strict=True):
            for run in runs:
                run.env[nodes[name]] = run.run_node(nodes[name])

    def free(self, name: str) -> None:
        """Forget what nothing after this node reads."""
        for runs, nodes in zip((self.before, self.after), self._nodes, strict=True):
            for run in runs:
                for gone in self._freed.get(name, ()):
                    run.env.pop(nodes[gone], None)

    def values(self, name: str, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The value of a node in both programs."""
        return self.before[batch].env[self._nodes[0][name]], self.after[batch].env[self._nodes[1][name]]

    def set_weight(self, weight: str, tensor: torch.Tensor) -> None:
        """Let the second program read another tensor from now on at the node ``weight``."""
        node = self._nodes[1][weight]
        self._after.set_tensor(str(node.target), tensor)
        for run in self.after:
            run.env[node] = self._after.tensor(node)

    def run_again(self, name: str) -> None:
        """Run a node of the second program once more, as its weight is another."""
        for run in self.after:
            node = self._nodes[1][name]
            run.env[node] = run.run_node(node)
