"""Layers that write channels, or read them, with stored weights: which dims of these are the channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import DIRECT, TRANSPOSED, arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.stream.channels import sizes

_PRODUCTS = {"aten.mm": ("self", "mat2"), "aten.matmul": ("self", "other"), "aten.addmm": ("mat1", "mat2")}


@dataclass(frozen=True)
class Held:
    """A dim of a stored weight of a layer along which channels lie."""

    layer: fx.Node
    weight: fx.Node
    dim: int


def written_by(program: Program, node: fx.Node, dim: int) -> list[Held]:
    """The weights that make a value's channels along ``dim``, bias included; none if it is no layer that mixes them freely."""
    name = op_name(node) if node.op == "call_function" else ""
    call = arguments(node) if hasattr(node.target, "_schema") else {}
    last = dim == len(sizes(node)) - 1
    match name:
        case "aten.linear" if last:
            held = {call["weight"]: 0, call["bias"]: 0}
        case "aten.embedding" if last:
            held = {call["weight"]: 1}
        case "aten.mm" | "aten.matmul" if last and len(sizes(call[_PRODUCTS[name][1]])) == 2:
            held = {call[_PRODUCTS[name][1]]: 1}
        case "aten.addmm" if last and call["alpha"] == call["beta"] == 1:
            held = {call["mat2"]: 1, call["self"]: len(sizes(call["self"])) - 1}
        case _ if name in (*DIRECT, *TRANSPOSED) and call["groups"] == 1 and dim == _channels_of(node, call["weight"]):
            held = {call["weight"]: int(name in TRANSPOSED), call["bias"]: 0}
        case _:
            return []
    wanted = [Held(node, weight, d) for weight, d in held.items() if weight is not None]
    size = sizes(node)[dim]
    fits = all((t := program.tensor(h.weight)) is not None and t.dim() and t.shape[h.dim] == size for h in wanted)
    return wanted if fits and all(h.weight.meta["val"].is_floating_point() for h in wanted) else []


@dataclass(frozen=True)
class Read:
    """The weight with which a layer reads channels; ``bias`` is the argument for one, None for a layer that has none."""

    held: Held
    bias: str | None
    pads: bool
    """Whether it reads zeros beside the values."""

    def folded(self, program: Program, vector: torch.Tensor) -> torch.Tensor:
        """What the layer gives for a vector in float64 that is added to all that it reads: one number for each output."""
        weight = program.tensor(self.held.weight)
        assert weight is not None
        sums = weight.detach().double().movedim(self.held.dim, 0)
        vector = vector.repeat(len(sums) // len(vector))
        found = (sums.flatten(1) * vector[:, None]).sum(0).reshape(sums.shape[1:])
        return found.flatten(1).sum(1) if found.dim() > 1 else found


def read_by(program: Program, node: fx.Node, value: fx.Node, dim: int) -> Read | None:
    """How a layer reads the channels of a value along ``dim``; None for a call that is no such layer."""
    name = op_name(node) if node.op == "call_function" else ""
    call = arguments(node) if hasattr(node.target, "_schema") else {}
    last = dim == len(sizes(value)) - 1
    pads = False
    bias: str | None = "bias"
    if name == "aten.linear" and call["input"] is value and last:
        held = Held(node, call["weight"], 1)
    elif (
        name in _PRODUCTS
        and call[_PRODUCTS[name][0]] is value
        and last
        and call.get("alpha", 1) == call.get("beta", 1) == 1
    ):
        held, bias = Held(node, call[_PRODUCTS[name][1]], 0), "self" if name == "aten.addmm" else None
    elif (
        name in DIRECT and call["input"] is value and call["groups"] == 1 and dim == _channels_of(node, call["weight"])
    ):
        held = Held(node, call["weight"], 1)
        pads = call["padding"] not in ("valid", 0) and any(p not in (0,) for p in _each(call["padding"]))
    else:
        return None
    weight = program.tensor(held.weight)
    products = name in _PRODUCTS or name == "aten.linear"
    if weight is None or (products and weight.dim() != 2) or weight.shape[held.dim] != sizes(value)[dim]:
        return None
    given = call[bias] if bias else None
    if given is not None and (program.tensor(given) is None or len(sizes(given)) != 1):
        return None
    return Read(held, bias, pads)


def _each(padding: Any) -> list[Any]:
    return list(padding) if isinstance(padding, (list, tuple)) else [padding]


def _channels_of(node: fx.Node, weight: fx.Node) -> int:
    """The dim of a convolution's input and result that holds channels."""
    return len(sizes(node)) - len(sizes(weight)) + 1


Change = Callable[[torch.Tensor], torch.Tensor]
"""A weight in float64 to another of its shape."""


@dataclass
class WeightChanges:
    """New weights by layer; one that all who read it want alike is changed once, so that tied ones stay tied."""

    program: Program
    _asked: dict[tuple[fx.Node, fx.Node], list[tuple[Any, Change]]] = field(default_factory=dict)

    def ask(self, held: Held, key: Any, change: Change) -> None:
        """Let a layer read ``change`` of its weight, after the changes before; ``key`` is equal for equal changes."""
        self._asked.setdefault((held.layer, held.weight), []).append(((held.dim, key), change))

    def apply(self) -> None:
        """Store them all."""
        tensors = self.program.tensors()
        readers: dict[int, set[tuple[fx.Node, fx.Node]]] = {}
        for node in self.program.graph.nodes:
            if node.op == "get_attr" and str(node.target) in tensors:
                found = readers.setdefault(id(tensors[str(node.target)]), set())
                found |= {(user, node) for user in node.users}
        by_tensor: dict[int, list[tuple[fx.Node, fx.Node]]] = {}
        for layer, weight in self._asked:
            by_tensor.setdefault(id(tensors[str(weight.target)]), []).append((layer, weight))
        for number, edges in by_tensor.items():
            wanted = {tuple(key for key, _ in self._asked[edge]) for edge in edges}
            if set(edges) == readers[number] and len(wanted) == 1:
                self.program.set_tensor(str(edges[0][1].target), self._changed(edges[0]))
                continue
            new = {edge: self._changed(edge) for edge in edges}
            for (layer, weight), tensor in new.items():
                self.program.swap_tensor(layer, weight, tensor)
        self._asked.clear()

    def _changed(self, edge: tuple[fx.Node, fx.Node]) -> torch.Tensor:
        tensor = self.program.tensor(edge[1])
        assert tensor is not None
        value = tensor.detach().double()
        for _, change in self._asked[edge]:
            value = change(value)
        return value.to(tensor.dtype).contiguous()


def applied(matrix: torch.Tensor, dim: int) -> Change:
    """The change of a weight whose channels along ``dim`` are multiplied by a matrix ``[n, n]``, block by block."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        blocks = weight.movedim(dim, -1).unflatten(-1, (-1, len(matrix)))
        return (blocks @ matrix.T).flatten(-2).movedim(-1, dim)

    return change


def scaled(vector: torch.Tensor, dim: int) -> Change:
    """The change of a weight whose channels along ``dim`` are multiplied by those of a vector, block by block."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        blocks = weight.movedim(dim, -1).unflatten(-1, (-1, len(vector)))
        return (blocks * vector).flatten(-2).movedim(-1, dim)

    return change
