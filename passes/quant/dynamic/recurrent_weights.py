"""Int8 weights of recurrent layers, whose inputs a runtime quantizes at every step."""

from __future__ import annotations

import torch
from torch import fx

from fxopt import Program
from fxopt.ir.op_table import family, lookup
from fxopt.ir.recurrent import recurrent
from fxopt.passes.common.stored_weights import names_any
from fxopt.passes.quant.emit import dequantized
from fxopt.passes.quant.encode import int8_codes


def recurrent_layers(program: Program) -> list[fx.Node]:
    """The calls of LSTM, GRU and RNN."""
    return [node for node in program.graph.nodes if (row := lookup(node)) and row.family == "recurrent"]


def quantize_recurrent(program: Program, keep_float: tuple[str, ...], *, safe_pairs: bool) -> None:
    """Quantize the matrices of every recurrent layer to int8 with a scale for each row, that is for each unit's gate.

    A layer that keeps one in float keeps all, with the reason: a runtime's kernel takes all or none.
    """
    for node in recurrent_layers(program):
        cells = recurrent(node).cells
        weights = [w for c in cells for w in (c.weight_ih, c.weight_hh, c.weight_hr) if w is not None]
        if reason := _declined(program, node, weights, keep_float):
            program.skip(node, reason)
            continue
        for weight in weights:
            tensor = program.tensor(weight)
            assert tensor is not None
            if not bool(tensor.isfinite().all()):
                raise program.fail(node, f"the weight {weight.target!r} holds NaN or infinity")
            codes = int8_codes(str(weight.target), tensor, safe_pairs=safe_pairs)
            node.replace_input_with(weight, dequantized(program, codes, node))


def _declined(program: Program, node: fx.Node, weights: list[fx.Node], keep_float: tuple[str, ...]) -> str | None:
    for weight in weights:
        tensor, name = program.tensor(weight), str(weight.target)
        if family(weight) == "quant":
            return "its weight is quantized already"
        if tensor is None:
            return f"its weight %{weight.name} is computed, not stored: run fold_constants before"
        if tensor.dtype != torch.float32:
            return f"its weight is {tensor.dtype}, not float32"
        readers = [u for n in program.graph.nodes if program.tensor(n) is tensor for u in n.users]
        if readers != [node] or weights.count(weight) > 1:
            return f"something else reads its weight {name!r} too, so that it would be stored twice"
        if names_any(keep_float, (name,)):
            return f"kept in float by keep_float={keep_float!r}"
    return None
