"""A Program as a plain module, to be trained on in a script of one's own, and back."""

from __future__ import annotations

from typing import Any

import torch

from fxopt.ops import arguments, set_argument
from fxopt.program import Program
from fxopt.text import op_name

_FLAGS = {
    "aten.batch_norm": "training", "aten.dropout": "train",
    "aten.feature_dropout": "train", "aten.alpha_dropout": "train",
}  # fmt: skip
"""Ops that act otherwise in training, and the argument that says so."""


class TrainableModule(torch.nn.Module):
    """A copy of a Program, called as the model was; ``parameters()`` and ``state_dict()`` have the model's own names.

    ``train()`` and ``eval()`` switch batch norm and dropout by their constants in the graph, each keeping its own
    momentum, eps and probability. :meth:`program` gives the Program back with the weights as they are then.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program.copy()
        self.graph_module = self._program.module
        self._switches = [
            (node, _FLAGS[op_name(node)], arguments(node)[_FLAGS[op_name(node)]])
            for node in self._program.graph.nodes
            if op_name(node) in _FLAGS
        ]
        for parameter in self.graph_module.parameters():
            parameter.requires_grad_(True)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph, with gradients."""
        return self.graph_module(*args, **kwargs)

    def train(self, mode: bool = True) -> TrainableModule:
        """Switch batch norm and dropout on, or to what they were in the program."""
        super().train(mode)
        for node, flag, before in self._switches:
            set_argument(node, flag, True if mode else before)
        self.graph_module.recompile()
        return self

    def program(self) -> Program:
        """The Program with the weights as they are now, in evaluation; passes go on from it without a new capture."""
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


def as_module(program: Program) -> TrainableModule:
    """A plain ``torch.nn.Module`` that computes what the program does and can be trained on.

    The program stays as it is; ``as_module(program).program()`` is the way back.
    """
    return TrainableModule(program)
