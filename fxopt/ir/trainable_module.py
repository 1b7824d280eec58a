"""A Program as a plain module, to be trained in a script of one's own, and back."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import Trait, arguments, has, set_argument
from fxopt.ir.program import Program
from fxopt.ir.widened import widened_for_good


class TrainableModule(torch.nn.Module):
    """A copy of a Program, called as the model was; ``parameters()`` and ``state_dict()`` have the model's own names.

    ``train()`` and ``eval()`` switch batch norm and dropout by their constants in the graph, each keeping its own
    momentum, eps and probability. :meth:`program` returns a Program with the present weights.
    ``watched`` are names of nodes whose values the next calls leave in ``seen``, with their gradients.
    """

    watched: tuple[str, ...] = ()

    def __init__(self, program: Program, batch_norm: Literal["live", "frozen"] = "live") -> None:
        super().__init__()
        self._program = program.copy(widened_for_good(program.tensors().values()))
        self.graph_module = self._program.module
        self.seen: dict[str, torch.Tensor] = {}
        norms = list(self._program.find("aten.batch_norm"))
        self._switches = [
            (node, flag, arguments(node)[flag])
            for node in self._program.graph.nodes
            if (flag := "training" if node in norms else "train" if has(node, Trait.DROPOUT) else "")
            and not (batch_norm == "frozen" and node in norms)
        ]
        for parameter in self.graph_module.parameters():
            parameter.requires_grad_(True)
        if batch_norm == "frozen":
            self._freeze(norms)
        self.eval()

    def _freeze(self, norms: list[fx.Node]) -> None:
        for norm in norms:
            for role in ("weight", "bias"):
                tensor = self._program.tensor(arguments(norm)[role])
                if isinstance(tensor, torch.nn.Parameter):
                    tensor.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where it computes, as the Program did."""
        return self._program.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph, with gradients."""
        if not self.watched:
            return self.graph_module(*args, **kwargs)
        watching = Watching(self.graph_module, self.watched)
        output = watching.run(*pytree.arg_tree_leaves(*args, **kwargs), enable_io_processing=False)
        self.seen = watching.seen
        return self.graph_module.graph.process_outputs(output)

    def train(self, mode: bool = True) -> TrainableModule:
        """Switch batch norm and dropout to training, or back to the program's own mode."""
        super().train(mode)
        for node, flag, before in self._switches:
            set_argument(node, flag, True if mode else before)
        if self._switches:
            self.graph_module.recompile()
        return self

    def program(self) -> Program:
        """The Program with the present weights, in evaluation; passes can go on from it without a new capture."""
        mode = self.training
        self.eval()
        twin = self._program.copy()
        self.train(mode)
        return twin

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Weights by the model's own names."""
        return self.graph_module.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights by the model's own names."""
        return self.graph_module.load_state_dict(*args, **kwargs)


class Watching(fx.Interpreter):
    """Runs a graph node by node and keeps the values of some."""

    def __init__(self, module: fx.GraphModule, names: tuple[str, ...]) -> None:
        super().__init__(module)
        self._names = set(names)
        self.seen: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and keep its value if it is watched."""
        value = super().run_node(n)
        if n.name in self._names:
            self.seen[n.name] = value.clone()  # what comes after may write into it
        return value


def as_module(program: Program, batch_norm: Literal["live", "frozen"] = "live") -> TrainableModule:
    """A plain ``torch.nn.Module`` that computes what the program does and can be trained on.

    With ``batch_norm="frozen"`` the statistics of batch norms do not change in training, nor do their scales and shifts.
    The program itself does not change; ``as_module(program).program()`` is the way back.
    """
    return TrainableModule(program, batch_norm)
