"""How a factor commutes with an op: through which operands it comes in, and what these are then divided by.

An op without a rule is opaque: no factor passes it. A rule is right if the result is divided as needed, by any factors
above zero, once all its carriers are divided as the rule says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import DIRECT, Trait, arguments, family, named
from fxopt.ir.printer import op_name
from fxopt.passes.quant.smoothing import moves
from fxopt.passes.quant.smoothing.needs import Needs, is_real, is_tensor

Sent = Iterator[tuple[fx.Node, torch.Tensor]]


@dataclass(frozen=True)
class SmoothingRule:
    """``carriers`` lists the operands that the factor comes through (empty: it cannot pass; a None: a weight is missing).

    ``divide`` maps the need of the result, of full rank, to that of each carrier.
    """

    carriers: Callable[[Needs, fx.Node], list[Any]]
    divide: Callable[[Needs, fx.Node, torch.Tensor], Sent]


def carriers(needs: Needs, node: fx.Node) -> list[fx.Node] | str:
    """Through which operands a factor on the result of ``node`` comes in; the reason if it cannot."""
    rule = RULES.get(op_name(node))
    found = rule.carriers(needs, node) if rule and family(node) != "random" else []
    source = op_name(moves.maker(node))
    if found and None in found:
        return f"what it reads comes from {source}, which has no weight here to take the factors"
    if not found or not all(isinstance(n, fx.Node) and is_real(n) for n in found):
        return f"what it reads comes from {source}, which factors cannot pass"
    return found


def divide(needs: Needs, node: fx.Node, need: torch.Tensor) -> Sent:
    """The carriers of ``node``, each with what it must be divided by."""
    rank = len(needs.shape(node))
    yield from RULES[op_name(node)].divide(needs, node, need.reshape([1] * (rank - need.dim()) + list(need.shape)))


# ---- where the factors end: weights --------------------------------------------------------------------------------


def _parameters(needs: Needs, node: fx.Node) -> list[Any]:
    call = arguments(node)
    return [call["weight"], *([call["bias"]] if call.get("bias") is not None else [])]


def _divide_channels(needs: Needs, node: fx.Node, need: torch.Tensor) -> Sent:
    """Weight ``[channels, ...]`` and bias ``[channels]``; the result's channel dim precedes the spatial ones."""
    weight, *bias = _parameters(needs, node)
    shape, name = needs.shape(weight), op_name(node)
    spatial = need.dim() - 2 if name in CHANNEL_NORMS else 0 if name == "aten.linear" else len(shape) - 2
    channels = _without(needs, need, (shape[0], *[1] * spatial)).reshape(-1)
    yield weight, channels.reshape([-1] + [1] * (len(shape) - 1))
    yield from ((node, _without(needs, channels, needs.shape(node))) for node in bias)


# ---- what passes them on -------------------------------------------------------------------------------------------


def _divide_elements(needs: Needs, node: fx.Node, need: torch.Tensor) -> Sent:
    for operand in RULES[op_name(node)].carriers(needs, node):
        yield operand, _without(needs, need, needs.shape(operand))


def _without(needs: Needs, need: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The need of an operand of ``shape`` that is broadcast to a result with ``need``."""
    more = need.dim() - len(shape)
    fewer = [d for d, size in enumerate(need.shape) if size != 1 and (d < more or shape[d - more] == 1)]
    united = needs.unite_over(need, fewer)
    return united.reshape(united.shape[more:])


def _first(needs: Needs, node: fx.Node) -> list[Any]:
    return [node.args[0]]


def _both(needs: Needs, node: fx.Node) -> list[Any]:
    return list(node.args[:2])


def _factor(needs: Needs, node: fx.Node) -> list[Any]:
    """One factor of a product: preferably a stored one, and one that is not broadcast."""
    found = [n for n in node.args[:2] if isinstance(n, fx.Node) and is_tensor(n)]
    if len(found) == 1:
        return found
    best = sorted(found, key=lambda n: (n.op != "get_attr", needs.shape(n) != needs.shape(node)))
    return [n for n in best if n in needs.takers][:1]


def _value(needs: Needs, node: fx.Node) -> list[Any]:
    """The operand of a matrix product or attention whose columns are those of the result."""
    operand = arguments(node)["value"] if op_name(node) == _ATTENTION else node.args[1]
    return [operand] if all(len(needs.shape(n)) > 1 for n in (node, operand)) else []  # type: ignore[arg-type]


def _divide_value(needs: Needs, node: fx.Node, need: torch.Tensor) -> Sent:
    """Its rows are summed with arbitrary weights, so all of them have the same need."""
    (operand,) = _value(needs, node)
    shape = needs.shape(operand)
    index = torch.arange(torch.Size(shape).numel()).reshape(shape)
    if op_name(node) == _ATTENTION and arguments(node)["enable_gqa"]:
        index = index.repeat_interleave(needs.shape(node)[-3] // shape[-3], -3)
    index = index.expand(*needs.shape(node)[:-2], *shape[-2:])
    yield operand, moves.send_back(needs, needs.unite_over(need, [need.dim() - 2]), index, shape)


def _averaged(needs: Needs, node: fx.Node) -> list[Any]:
    return [node.args[0]] if isinstance(arguments(node)["dim"], list) else []


def _divide_averaged(needs: Needs, node: fx.Node, need: torch.Tensor) -> Sent:
    call = arguments(node)
    if not call["keepdim"]:
        for dim in sorted(d % len(needs.shape(call["self"])) for d in call["dim"]):
            need = need.unsqueeze(dim)
    yield call["self"], need


def _divide_pooled(needs: Needs, node: fx.Node, need: torch.Tensor) -> Sent:
    yield node.args[0], needs.unite_over(need, [need.dim() - 2, need.dim() - 1])  # type: ignore[misc]


# ---- the table -----------------------------------------------------------------------------------------------------

CHANNEL_NORMS = ("aten.batch_norm", "aten.group_norm", "aten.instance_norm")
_CONTRACTIONS = ("aten.linear", *DIRECT)
_ATTENTION = "aten.scaled_dot_product_attention"
_HOMOGENEOUS = (*named(Trait.HOMOGENEOUS_IN_FIRST), *named(Trait.CAST))
"""f(x / s) = f(x) / s for every s > 0 in the first operand; a cast is one if its result is floating."""
_PASSING: dict[str, SmoothingRule] = {
    **dict.fromkeys((*moves.MOVES, "getitem"), SmoothingRule(moves.operands, moves.divide_moved)),
    **dict.fromkeys(_HOMOGENEOUS, SmoothingRule(_first, _divide_elements)),
    **dict.fromkeys(named(Trait.HOMOGENEOUS, "binary"), SmoothingRule(_both, _divide_elements)),
    "aten.mul.Tensor": SmoothingRule(_factor, _divide_elements),
    **dict.fromkeys(("aten.matmul", "aten.bmm", _ATTENTION), SmoothingRule(_value, _divide_value)),
    **dict.fromkeys(("aten.mean.dim", "aten.sum.dim_IntList"), SmoothingRule(_averaged, _divide_averaged)),
    **dict.fromkeys(
        ("aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool2d"), SmoothingRule(_first, _divide_pooled)
    ),
}  # fmt: skip
RULES: dict[str, SmoothingRule] = {
    **dict.fromkeys((*_CONTRACTIONS, *CHANNEL_NORMS), SmoothingRule(_parameters, _divide_channels)),
    **dict.fromkeys(("aten.layer_norm", "aten.rms_norm"), SmoothingRule(_parameters, _divide_elements)),
    **_PASSING,
}


def passes_on(user: fx.Node, value: fx.Node) -> bool:
    """Whether a factor on ``value`` can pass ``user``, or is absorbed by it, as by a linear."""
    name = op_name(user)
    return name in _PASSING or (name == "aten.linear" and user.args[0] is value and value not in user.args[1:])
