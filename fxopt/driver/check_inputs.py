"""The inputs on which an artifact is compared with its program."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import find_quantized
from fxopt.ir.program import Program
from fxopt.numerics.probe_inputs import probe_inputs
from fxopt.workload import Data
from fxopt.workload.batching import fits, fixed_batch, has_rows
from fxopt.workload.workload import validation_batches

_SEVERAL = 3


def check_inputs(program: Program, data: Data | None) -> list[list[Any]]:
    """Flat inputs: of a quantized program validation examples, a batch of one and one of several; else random ones too.

    Far outside the calibrated ranges values saturate, and a runtime may leave out a pair of quantize and dequantize whose
    scale the next one has: OpenVINO does, and on random inputs, of which a quantized network makes noise, keeps 27 dB of the
    program that it keeps 42 dB of on the data.
    """
    if data is None or find_quantized(program.graph) is None:
        return probe_inputs(program)
    nodes = program.inputs()
    symbols = {str(node.meta["val"].shape[0]) for node in nodes if has_rows(node)}
    least = max((program.ranges.get(symbol, (1, None))[0] for symbol in symbols), default=1)
    count = fixed_batch(program) or max(_SEVERAL, least)
    args: tuple[Any, ...] = next(validation_batches(data, count, count), ())
    leaves = pytree.tree_leaves((args, {}))
    if len(leaves) != len(nodes) or not all(map(fits, nodes, leaves)):
        return probe_inputs(program)
    if len(symbols) != 1 or any(
        map(_may_index, nodes)
    ):  # fixed, or sizes that belong together, as a graph's nodes and edges
        return [leaves]
    few = [leaf[: max(1, least)] if has_rows(node) else leaf for node, leaf in zip(nodes, leaves, strict=True)]
    return [few, leaves]


def _may_index(node: fx.Node) -> bool:
    """Whether an input holds integers that are no rows, and may be numbers of rows of another input."""
    value = node.meta["val"]
    return isinstance(value, torch.Tensor) and not has_rows(node) and value.dtype in (torch.int32, torch.int64)
