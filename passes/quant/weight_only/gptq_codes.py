"""GPTQ through a graph: each weight is rounded for its layer's input with the weights before it rounded already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from fxopt.errors import DataError
from fxopt.ir.op_table import PRODUCT_OPERANDS, arguments
from fxopt.ir.placement import place
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.ir.transfer import put, repeatable, summable, take
from fxopt.numerics.execute import started
from fxopt.passes.quant.weight_only.blocks import BlockCodes, Grid
from fxopt.passes.quant.weight_only.choose_weights import BlockWeight
from fxopt.passes.quant.weight_only.gptq import gptq


def gptq_codes(
    program: Program, weights: list[BlockWeight], grids: list[Grid], batches: list[list[Any]], device: str = "cpu"
) -> list[BlockCodes]:
    """Each weight quantized by :func:`gptq` on the inputs of its first layer. ``program`` does not change.

    The graph runs once on ``device``, node by node over all batches, so memory holds the live values of all of them, and the
    products of one layer. Raises DataError where a layer reads NaN or infinity.
    """
    twin = shared_copy(program)
    place(twin, torch.device(device))
    runs = [started(fx.Interpreter(twin.module), put(leaves, twin.device)) for leaves in batches]
    first = {weight.layers[0].name: i for i, weight in enumerate(weights)}
    found: dict[int, BlockCodes] = {}
    with torch.no_grad(), repeatable(twin.device):
        for node in twin.graph.nodes:
            if len(found) == len(weights):
                break
            if node.name in first:
                number = first[node.name]
                weight = weights[number]
                products = _products(twin, node, runs)
                codes = gptq(put(weight.rows(), products.device), products, grids[number])
                real = put(codes.real(), twin.device)
                _set_weight(twin, runs, weight.name, real.T if weight.transposed else real)
                found[number] = replace(codes, integers=take(codes.integers), scales=take(codes.scales))
            for run in runs:
                run.env[node] = run.run_node(node)
                for gone in run.user_to_last_uses.get(node, ()):
                    del run.env[gone]
    return [found[i] for i in range(len(weights))]


def _products(program: Program, layer: fx.Node, runs: list[fx.Interpreter]) -> torch.Tensor:
    """Sum of x·xᵀ float64 [in, in] over everything that a layer reads; each batch is summed in float32."""
    source = arguments(layer)[PRODUCT_OPERANDS[op_name(layer)][0]]
    total: torch.Tensor | None = None
    for run in runs:
        rows = run.env[source].reshape(-1, run.env[source].shape[-1])
        product = summable(rows.T @ rows).double()
        total = product if total is None else total + product
    assert total is not None
    if not bool(total.isfinite().all()):
        raise DataError(
            f"quantize_weights: calibration met NaN or infinity in what this reads\n    {program.describe(layer)}"
        )
    return total


def _set_weight(program: Program, runs: list[fx.Interpreter], name: str, tensor: torch.Tensor) -> None:
    program.set_tensor(name, tensor.contiguous())
    for run in runs:
        for node in run.env:
            if node.op == "get_attr" and (now := program.tensor(node)) is not None:
                run.env[node] = now
