"""Recurrent layers as ONNX's own LSTM, GRU and RNN, one op a layer, both directions in it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.recurrent import Cell, Recurrent, recurrent
from fxopt.ir.shared_copy import shared_copy

_OPS = {"lstm": ("LSTM", (0, 3, 1, 2)), "gru": ("GRU", (1, 0, 2)), "rnn_tanh": ("RNN", (0,)), "rnn_relu": ("RNN", (0,))}
"""By kind, ONNX's op, and its gates as numbers of torch's: i, o, f, c of i, f, g, o, and z, r, h of r, z, n."""
SEQUENCES = tuple(f"aten.{kind}.input" for kind in _OPS)
_CODES = "quantized_decomposed.dequantize_per_channel"
aten = torch.ops.aten


def cannot_lower(node: fx.Node) -> str | None:
    """Why ONNX has no form of a recurrent layer: one in training, or a projected state that does not begin at zero."""
    if op_name(node) not in SEQUENCES:
        return None
    layer = recurrent(node)
    if layer.drops:
        return "ONNX has no dropout between recurrent layers; capture the model after model.eval()"
    if layer.projects and op_name(layer.states[0]) not in ("aten.zeros", "aten.zeros_like", "aten.new_zeros"):
        return "ONNX has no LSTM with a projection and an initial state; leave the state out, or use the backend eager"
    return None


def use_recurrent_kernels(program: Program, *, quantized_lstm: bool) -> Program:
    """Return a copy whose recurrent layers are ONNX ops. The program itself where it has none.

    With ``quantized_lstm`` an LSTM whose weights are int8 codes becomes ONNX Runtime's DynamicQuantizeLSTM, which
    quantizes what it reads at every step; otherwise such weights are dequantized in front of the layer.
    """
    if not any(program.find(*SEQUENCES)):
        return program
    twin = shared_copy(program)
    for node in twin.find(*SEQUENCES):
        _Lowering(twin, node).run(quantized_lstm)
    twin.graph.eliminate_dead_code()
    twin.module.recompile()
    return twin


class _Lowering:
    """One call of a recurrent op, which may be several layers."""

    def __init__(self, program: Program, node: fx.Node) -> None:
        self.program, self.node = program, node
        self.layer: Recurrent = recurrent(node)
        self.op, self.order = _OPS[self.layer.kind]

    def run(self, quantized_lstm: bool) -> None:
        """Put ONNX ops in front of the call and let its readers read these."""
        layer, directions = self.layer, len(self.layer.layers[0])
        x: fx.Node = layer.input
        sizes = [self._size(x, dim) for dim in range(2)]
        if layer.batch_first:
            x, sizes = self._call(aten.transpose.int, x, 0, 1), sizes[::-1]
        last: list[list[fx.Node]] = [[] for _ in layer.states]
        for i, cells in enumerate(layer.layers):
            states = [self._call(aten.slice.Tensor, s, 0, i * directions, (i + 1) * directions) for s in layer.states]
            if layer.projects:  # the units are the state instead: their products with W_hh are those of W_hh W_hr
                states[0] = self._call(aten.zeros_like.default, states[1])
            quantized = quantized_lstm and layer.kind == "lstm" and not layer.projects and self._are_codes(cells)
            made = (self._quantized if quantized else self._float)(x, cells, states, sizes)
            if layer.projects:
                projection = self._stacked(cells, lambda cell: self._turned(cell.weight_hr))
                made[:2] = [self._call(aten.matmul.default, value, projection) for value in made[:2]]
            x = self._call(aten.flatten.using_ints, self._call(aten.transpose.int, made[0], 1, 2), 2, 3)
            for found, value in zip(last, made[1:], strict=True):
                found.append(value)
        if layer.batch_first:
            x = self._call(aten.transpose.int, x, 0, 1)
        results = [x, *(values[0] if len(values) == 1 else self._call(aten.cat.default, values) for values in last)]
        for user in list(self.node.users):
            result: fx.Node = results[user.args[1]]  # type: ignore[index]
            result.meta["val"] = user.meta["val"]  # a dynamic quantizer of it asks for its sizes
            user.replace_all_uses_with(result)
            self.program.graph.erase_node(user)
        self.program.graph.erase_node(self.node)

    def _float(self, x: fx.Node, cells: Sequence[Cell], states: list[fx.Node], sizes: list[Any]) -> list[fx.Node]:
        read = self._stacked(cells, lambda cell: self._gates(cell.weight_ih))
        again = self._stacked(cells, lambda cell: self._gates(self._recurrence(cell)))
        attributes: dict[str, Any] = {"linear_before_reset": 1} if self.op == "GRU" else {}
        if self.op == "RNN":
            attributes["activations"] = ["Relu" if self.layer.kind == "rnn_relu" else "Tanh"] * len(cells)
        inputs = [x, read, again, self._bias(cells), None, *states]
        return self._kernel(self.op, inputs, cells, sizes, attributes, 14)

    def _quantized(self, x: fx.Node, cells: Sequence[Cell], states: list[fx.Node], sizes: list[Any]) -> list[fx.Node]:
        """Weights ``[direction, in, gates * hidden]`` as codes, with a scale for each of the last."""
        weights: list[list[fx.Node]] = []
        for pick in (lambda cell: cell.weight_ih, lambda cell: cell.weight_hh):
            parts = [[self._stored(arguments(pick(cell))[name]) for cell in cells] for name in ("input", "scales")]
            codes = torch.stack([self._ordered(t).T for t in parts[0]]).contiguous()
            scales = torch.stack([self._ordered(t) for t in parts[1]])
            zeros = torch.zeros(scales.shape, dtype=torch.int8)
            weights.append([self._constant(t) for t in (codes, scales, zeros)])
        (read, *of_read), (again, *of_again) = weights
        inputs = [x, read, again, self._bias(cells), None, *states, None, *of_read, *of_again]
        return self._kernel("com.microsoft::DynamicQuantizeLSTM", inputs, cells, sizes, {}, 1)

    def _kernel(
        self,
        op: str,
        inputs: list[Any],
        cells: Sequence[Cell],
        sizes: list[Any],
        attributes: dict[str, Any],
        version: int,
    ) -> list[fx.Node]:
        directions, hidden = len(cells), self._hidden(cells[0])
        state = [directions, sizes[1], hidden]
        shapes = [[sizes[0], *state], *([state] * len(self.layer.states))]
        attributes |= {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"}
        dtype = self.node.meta["val"][0].dtype
        made = self._call(
            torch.onnx.ops.symbolic_multi_out, op, inputs, attributes,
            dtypes=[dtype] * len(shapes), shapes=shapes, version=version,
        )  # fmt: skip
        return [self._call(operator.getitem, made, i) for i in range(len(shapes))]

    # ---- weights -----------------------------------------------------------------------------------------------

    def _stacked(self, cells: Sequence[Cell], of: Callable[[Cell], torch.Tensor | fx.Node]) -> fx.Node:
        """One weight for all directions, which are its first dim."""
        parts = [of(cell) for cell in cells]
        if all(isinstance(part, torch.Tensor) for part in parts):
            return self._constant(torch.stack(parts))  # type: ignore[arg-type]
        return self._call(aten.stack.default, [self._constant(p) if isinstance(p, torch.Tensor) else p for p in parts])

    def _bias(self, cells: Sequence[Cell]) -> fx.Node | None:
        if cells[0].bias_ih is None:
            return None
        halves = [
            self._stacked(cells, lambda cell: self._gates(cell.bias_ih)),
            self._stacked(cells, lambda cell: self._gates(cell.bias_hh)),
        ]
        stored = [self.program.tensor(half) for half in halves]
        if all(part is not None for part in stored):
            return self._constant(torch.cat([part.detach() for part in stored if part is not None], 1))
        return self._call(aten.cat.default, halves, 1)

    def _recurrence(self, cell: Cell) -> Any:
        """What the state is multiplied with; of a projected one, what its units are."""
        if cell.weight_hr is None:
            return cell.weight_hh
        again, projection = self.program.tensor(cell.weight_hh), self.program.tensor(cell.weight_hr)
        if again is not None and projection is not None:
            return (again.detach().double() @ projection.detach().double()).to(again.dtype)
        return self._call(aten.matmul.default, cell.weight_hh, cell.weight_hr)

    def _gates(self, weight: Any) -> Any:
        """The rows of a weight in ONNX's order of gates; a tensor where it is stored."""
        stored = weight if isinstance(weight, torch.Tensor) else self.program.tensor(weight)
        if stored is not None:
            return self._ordered(stored.detach())
        rows = self._hidden(self.layer.cells[0])
        parts = [self._call(aten.slice.Tensor, weight, 0, gate * rows, (gate + 1) * rows) for gate in self.order]
        return self._call(aten.cat.default, parts)

    def _ordered(self, packed: torch.Tensor) -> torch.Tensor:
        parts = packed.detach().chunk(len(self.order))
        return torch.cat([parts[gate] for gate in self.order])

    def _turned(self, weight: Any) -> Any:
        stored = self.program.tensor(weight)
        return self._call(aten.t.default, weight) if stored is None else stored.detach().T

    def _are_codes(self, cells: Sequence[Cell]) -> bool:
        weights = [weight for cell in cells for weight in (cell.weight_ih, cell.weight_hh)]
        return all(self._is_codes(weight) for weight in weights)

    def _is_codes(self, weight: fx.Node) -> bool:
        if op_name(weight) != _CODES:
            return False
        call = arguments(weight)
        codes, zeros = self.program.tensor(call["input"]), self.program.tensor(call["zero_points"])
        symmetric = zeros is not None and not bool(zeros.any())
        return codes is not None and (codes.dtype, call["axis"]) == (torch.int8, 0) and symmetric

    # ---- nodes -------------------------------------------------------------------------------------------------

    def _hidden(self, cell: Cell) -> int:
        return int(cell.weight_ih.meta["val"].shape[0]) // self.layer.gates

    def _stored(self, node: fx.Node) -> torch.Tensor:
        tensor = self.program.tensor(node)
        assert tensor is not None
        return tensor.detach()

    def _constant(self, tensor: torch.Tensor) -> fx.Node:
        return self.program.add_tensor(f"{self.node.name}_weight", tensor.contiguous(), self.node)

    def _size(self, node: fx.Node, dim: int) -> Any:
        """A size of the input, which the first result has too."""
        size = self.node.meta["val"][0].shape[dim]
        return size if isinstance(size, int) else self._call(aten.sym_size.int, node, dim)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with self.program.graph.inserting_before(self.node):
            made = self.program.graph.call_function(target, args, kwargs)
        made.meta["stack_trace"] = self.node.meta.get("stack_trace")
        return made
