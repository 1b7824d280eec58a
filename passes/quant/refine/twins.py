"""The float program and its quantized form, run side by side before anything is emitted into the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.program import Program
from fxopt.ir.transfer import put
from fxopt.numerics.execute import started
from fxopt.passes.quant.encode import LayerCodes
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.placement import Placement


class Twins:
    """Values of both for every batch, node by node, each freed after its last reader.

    The quantized one computes bit for bit the same as the graph will with its quantize and dequantize ops. A layer can be
    exchanged during the run, so that later layers are refined for the inputs they will really have.
    """

    def __init__(
        self,
        program: Program,
        placement: Placement,
        ranges: dict[fx.Node, Affine],
        codes: dict[fx.Node, LayerCodes],
        batches: list[list[Any]],
    ) -> None:
        self.codes = dict(codes)
        self._float = [started(fx.Interpreter(program.module, garbage_collect_values=False), b) for b in batches]
        self._quantized = [started(_Quantized(program, placement, ranges, self.codes), b) for b in batches]
        self._freed: dict[fx.Node, list[fx.Node]] = {}
        order = {node: i for i, node in enumerate(program.graph.nodes)}
        for node in program.graph.nodes:
            self._freed.setdefault(max([node, *node.users], key=lambda n: order[n]), []).append(node)

    def run(self, node: fx.Node) -> None:
        """Run one node in both."""
        for run in (*self._float, *self._quantized):
            run.env[node] = run.run_node(node)

    def exchange(self, layer: fx.Node, codes: LayerCodes) -> None:
        """Replace a quantized layer from now on, and run it again."""
        self.codes[layer] = codes
        for run in self._quantized:
            run.env[layer] = run.run_node(layer)

    def free(self, node: fx.Node) -> None:
        """Free values that nothing after this node reads."""
        for run in (*self._float, *self._quantized):
            for gone in self._freed.get(node, ()):
                run.env.pop(gone, None)

    def values(self, node: fx.Node) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The value of a node in float and in the quantized form, for each batch."""
        return [(a.env[node], b.env[node]) for a, b in zip(self._float, self._quantized, strict=True)]

    def read(self, layer: fx.Node) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A layer's input in float and in the quantized form, for each batch."""
        data = arguments(layer)["input"]
        return [(a.env[data], b.seen(layer, data)) for a, b in zip(self._float, self._quantized, strict=True)]


class _Quantized(fx.Interpreter):
    """Runs the graph as quantized: operands quantized and dequantized, layers with dequantized weights."""

    def __init__(
        self, program: Program, placement: Placement, ranges: dict[fx.Node, Affine], codes: dict[fx.Node, LayerCodes]
    ) -> None:
        super().__init__(program.module, garbage_collect_values=False)
        self._device = program.device
        self._placement, self._ranges, self._codes = placement, ranges, codes

    def seen(self, reader: fx.Node, node: fx.Node) -> Any:
        """The value of ``node`` as ``reader`` reads it."""
        value = self.env[node]
        if not self._placement.quantizes(node, reader):
            return value
        ops, affine = torch.ops.quantized_decomposed, self._ranges[node]
        code = (affine.scale, affine.zero_point, *affine.form.limits, affine.form.dtype)
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(value, *code), *code)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        return fx.node.map_arg((n.args, n.kwargs), lambda node: self.seen(n, node))

    def run_node(self, n: fx.Node) -> Any:
        codes = self._codes.get(n)
        if codes is None:
            return super().run_node(n)
        call = fx.node.map_arg(arguments(n), lambda node: self.seen(n, node))
        bias = None if codes.bias is None else codes.bias.real()
        stored = put({"weight": codes.weight.real(), "bias": bias}, self._device)
        return n.target(**call | stored)  # type: ignore[operator]
