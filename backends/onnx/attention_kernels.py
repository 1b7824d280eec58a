"""Attention as ONNX Runtime's own kernel, which takes the projections as they are: heads side by side in the last dim.

Written out, a call is a dozen nodes that split, turn and merge heads around two products and a softmax, and the runtime fuses
them for none of the graphs that torch exports. Some of its forms give a query without any key the mean of all values, too, where
torch gives zeros.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxopt.backends.onnx.attention_masks import Mask, Masks
from fxopt.backends.onnx.heads import COPIES, RESHAPES, merged, split_from, turns_heads
from fxopt.backends.onnx.shaped_calls import STEM, call, size_of
from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import size_expressions
from fxopt.ir.shared_copy import shared_copy

ATTENTION = "aten.scaled_dot_product_attention"
aten = torch.ops.aten


def use_attention_kernels(program: Program) -> Program:
    """Return a copy in which attention is ``com.microsoft.MultiHeadAttention``, where that gives the same numbers.

    It does where :func:`why_written_out` has no reason. Heads that share keys get copies of them. The program itself where it
    has no such attention.
    """
    if all(why_written_out(node) for node in program.find(ATTENTION)):
        return program
    twin = shared_copy(program)
    masks = Masks(twin)
    for node in twin.find(ATTENTION):
        if why_written_out(node) is None:
            _replace(twin, node, masks)
    twin.graph.eliminate_dead_code()
    twin.module.recompile()
    return twin


def why_written_out(node: fx.Node) -> str | None:
    """Why the runtime's kernel is not for a call of attention; None if it is."""
    given = arguments(node)
    values = [given[name].meta["val"] for name in ("query", "key", "value")]
    if any(v.dtype != torch.float32 for v in values):
        return "the kernel is for float32"
    if given["dropout_p"]:
        return "it drops numbers at random"
    if any(v.dim() != 4 for v in values):
        return "it does not have four dims"
    query, key, value = (size_expressions(v.shape) for v in values)
    if not all(isinstance(size, int) for size in (query[1], key[1], query[3], value[3])):
        return "the number or the size of its heads can vary"
    shares = query[1] % key[1] == 0 if given["enable_gqa"] else query[1] == key[1]
    if not shares or not query[0] == key[0] == value[0] or key[1:3] != value[1:3]:
        return "query, key and value are broadcast"
    if given["is_causal"] and query[2] != key[2] and not (isinstance(query[2], int) and isinstance(key[2], int)):
        return "it is causal, with other keys than queries, whose numbers can vary"
    return None


def _replace(program: Program, node: fx.Node, masks: Masks) -> None:
    """Put the kernel in the place of a call, and in that of the merging of its heads where nothing else reads it."""
    given = arguments(node)
    query, heads = given["query"], int(given["query"].meta["val"].shape[1])
    batch, _, queries, width = query.meta["val"].shape
    with program.graph.inserting_before(node):
        others = [_shared(program, given[name], heads) for name in ("key", "value")]
        mask = _mask(program, node, masks, given)
        widths = {part.meta["val"].shape[3] for part in others}
        if len(widths) > 1 or any(map(split_from, others)):  # else heads may come first, as they do in a cache
            others = [merged(program, part) for part in others]
        scale = 1 / math.sqrt(width) if given["scale"] is None else float(given["scale"])
        causal = given["is_causal"] and mask.added is None
        attributes = {"num_heads": heads, "scale": scale, "unidirectional": int(causal)}
        inputs = [merged(program, query), *others, *([] if mask.added is None else [None, None, mask.added])]
        each = int(given["value"].meta["val"].shape[3])
        shape = [size_of(program, query, 0), size_of(program, query, 2), heads * each]
        made = program.graph.call_function(
            torch.onnx.ops.symbolic, ("com.microsoft::MultiHeadAttention", inputs, attributes),
            {"dtype": torch.float32, "shape": shape, "version": 1},
        )  # fmt: skip
        line = node.meta.get("stack_trace")
        made.meta |= {
            "val": query.meta["val"].new_empty(batch, queries, heads * each),
            "stack_trace": line,
            STEM: node.name,
        }
        if mask.keeps is not None:
            made = _zero_without_key(program, made, mask.keeps, heads)
        merges = _merges(node)
        if not merges:
            made = call(program, aten.unflatten.int, made, 2, [heads, each])
            made = call(program, aten.transpose.int, made, 1, 2)
    made.meta["stack_trace"] = line
    replaced = merges or [node]
    name = replaced[0].name
    for old in replaced:
        old.replace_all_uses_with(made)
        _erase(program, old, node)
    made._rename(name)  # it is that value


def _mask(program: Program, node: fx.Node, masks: Masks, given: dict[str, Any]) -> Mask:
    query, key = given["query"], given["key"]
    if given["attn_mask"] is not None:
        return masks.of(given["attn_mask"], query, key, node)
    queries, keys = size_expressions((query.meta["val"].shape[2], key.meta["val"].shape[2]))
    if not given["is_causal"] or queries == keys:
        return Mask()  # the kernel has an option for it
    return masks.stored(torch.ones(1, 1, queries, keys, dtype=torch.bool).tril(), node)


def _shared(program: Program, part: fx.Node, heads: int) -> fx.Node:
    """Keys or values ``[N, groups, length, width]`` once for each of the heads that share them."""
    groups = int(part.meta["val"].shape[1])
    if groups == heads:
        return part
    made = call(program, aten.unsqueeze.default, part, 2)
    made = call(program, aten.expand.default, made, [-1, -1, heads // groups, -1, -1])
    return call(program, aten.flatten.using_ints, made, 1, 2)


def _zero_without_key(program: Program, made: fx.Node, keeps: fx.Node, heads: int) -> fx.Node:
    if keeps.meta["val"].shape[1] == 1:
        return call(program, aten.mul.Tensor, made, call(program, aten.squeeze.dim, keeps, 1))
    apart = call(program, aten.unflatten.int, made, 2, [heads, -1])
    apart = call(program, aten.mul.Tensor, apart, call(program, aten.transpose.int, keeps, 1, 2))
    return call(program, aten.flatten.using_ints, apart, 2)


def _merges(node: fx.Node) -> list[fx.Node]:
    """The calls that merge the heads of the result ``[N, heads, length, width]``, where it is read by these alone."""
    batch, heads, length, width = node.meta["val"].shape
    want = size_expressions((batch, length, heads * width))
    found = []
    for user in _readers(node):
        merges = _readers(user) if turns_heads(user) else []
        if not merges or any(
            op_name(m) not in RESHAPES or size_expressions(m.meta["val"].shape) != want for m in merges
        ):
            return []
        found += merges
    return found


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads a value, or a copy of it."""
    return [reader for user in node.users for reader in (_readers(user) if op_name(user) in COPIES else [user])]


def _erase(program: Program, node: fx.Node, last: fx.Node) -> None:
    """A call that nobody reads, and those that it alone read, up to ``last``."""
    source = node.all_input_nodes[0]
    program.graph.erase_node(node)
    if node is not last and not source.users:
        _erase(program, source, last)
