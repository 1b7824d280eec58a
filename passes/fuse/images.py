"""Values over one or three dims as images: [n, c, w] as [n, c, 1, w], and [n, c, d, h, w] as [n * d, c, h, w]."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt import Program

aten = torch.ops.aten


class Images:
    """Values of a program as images, each made on first use."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._of: dict[fx.Node, fx.Node] = {}

    def known(self, value: Any) -> bool:
        """Whether a value has been made images already."""
        return isinstance(value, fx.Node) and value in self._of

    def call(self, reader: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A call before a node, with its source line."""
        with self.program.graph.inserting_before(reader):
            node = self.program.graph.call_function(target, args, kwargs)
        node.meta["stack_trace"] = reader.meta.get("stack_trace")
        return node

    def of(self, value: fx.Node, reader: fx.Node) -> fx.Node:
        """The images of a value, for a node that reads it."""
        if value not in self._of:
            if value.meta["val"].dim() == 3:
                self._of[value] = self.call(reader, aten.unsqueeze.default, value, 2)
            else:
                turned = self.call(reader, aten.permute.default, value, [0, 2, 1, 3, 4])
                self._of[value] = self.call(reader, aten.flatten.using_ints, turned, 0, 1)
        return self._of[value]

    def stand_for(self, node: fx.Node, image: fx.Node) -> None:
        """Replace a node by its images, brought back to its own shape for readers that are no images."""
        value = node.meta["val"]
        if value.dim() == 3:
            restored = self.call(node, aten.squeeze.dim, image, 2)
        else:
            apart = self.call(node, aten.unflatten.int, image, 0, [-1, value.shape[2]])
            turned = self.call(node, aten.permute.default, apart, [0, 2, 1, 3, 4])
            restored = self.call(node, aten.contiguous.default, turned)  # a reader may want a view of it
        restored.meta["val"] = value
        self.program.replace(node, restored)
        self._of[restored] = image

    def beside(self, operand: Any, reader: fx.Node) -> Any:
        """An operand reshaped to broadcast against the images of ``reader``'s result; None if it cannot be."""
        if not isinstance(operand, fx.Node):
            return operand
        shape, whole = operand.meta["val"].shape, reader.meta["val"].shape
        if len(shape) == 0:
            return operand
        if len(whole) == 3:
            if self.known(operand):
                return self._of[operand]
            return self.call(reader, aten.unsqueeze.default, operand, len(shape) - 1)
        full = len(shape) == 5 and (shape[0], shape[2]) == (whole[0], whole[2])
        return self.of(operand, reader) if full else None
