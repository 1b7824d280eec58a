"""Write ops that have several spellings in the one that backends know best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments, set_argument
from fxopt.ir.printer import op_name

aten = torch.ops.aten


@graph_pass
def canonicalize_ops(program: Program) -> None:
    """Canonicalize ops that have several spellings.

    Exporters and importers know one of them, and some convert the others wrongly. hstack and its kin become
    concatenations, a squeeze of a dim that is not one goes, reductions list their dims and permutations count them from
    the front, ``alpha`` becomes a product of its own, a copy an expansion, a channel shuffle a transposition,
    nearest-neighbour upsampling has sizes or scales, im2col of one image is that of a batch of one, the operands of scatter
    and gather are sliced to the sizes of the indices, integers that index together are int64, those that meet a fraction are
    floats, and a cosine similarity is the product of two quotients by norms.

    before:
        %x : f32[2,4]
        %y : f32[2,4]
        %a = aten.add.Tensor(%x, %y, alpha=3)
        %b = aten.vstack([%a, %y])
        return %b
    after:
        %x : f32[2,4]
        %y : f32[2,4]
        %c = aten.mul.Scalar(%y, 3)
        %a = aten.add.Tensor(%x, %c)
        %b = aten.cat([%a, %y], 0)
        return %b
    """
    for node in program.find(*_FORMS):
        if write := _FORMS.get(op_name(node)):  # a name without an overload finds all
            write(_Call(program, node, arguments(node)))


class _Call(NamedTuple):
    program: Program
    node: fx.Node
    given: dict[str, Any]

    def insert(self, target: Any, *args: Any) -> fx.Node:
        """Insert a call before the node."""
        with self.program.graph.inserting_before(self.node):
            made = self.program.graph.call_function(target, args)
        made.meta["stack_trace"] = self.node.meta.get("stack_trace")
        return made

    def replace(self, target: Any, *args: Any) -> None:
        """Put a call in place of the node."""
        made = self.insert(target, *args)
        made.meta["val"] = self.node.meta["val"]  # a later call may read it next
        self.program.replace(self.node, made)


def _rank(value: Any) -> int:
    return int(value.meta["val"].dim())


def _as_floats(call: _Call) -> _Call:
    """Cast the integers that are computed with as floats: importers divide them as integers, or round a fraction to one."""
    made = call.node.meta["val"].dtype
    fraction = torch.float32 if any(isinstance(value, float) for value in call.given.values()) else None
    dtype = made if made.is_floating_point else fraction
    for name, value in call.given.items() if dtype else ():
        if isinstance(value, fx.Node) and not (value.meta["val"].is_floating_point() or value.meta["val"].is_complex()):
            set_argument(call.node, name, call.insert(aten.to.dtype, value, dtype))
    return call._replace(given=arguments(call.node))


def _alpha(call: _Call) -> None:
    call = _as_floats(call)
    alpha, other = call.given.get("alpha"), call.given["other"]
    if alpha is None or alpha == 1:
        return
    scaled = call.insert(aten.mul.Scalar, other, alpha) if isinstance(other, fx.Node) else other * alpha
    call.replace(call.node.target, call.given["self"], scaled)


def _stack(call: _Call, least: int, dim: int) -> None:
    """Concatenate tensors of at least so many dims along ``dim``; missing ones are put in front."""
    tensors = list(call.given["tensors"])
    for i, tensor in enumerate(tensors):
        for _ in range(least - _rank(tensor)):
            tensors[i] = call.insert(aten.unsqueeze.default, tensors[i], 0)
    call.replace(aten.cat.default, tensors, dim)


def _hstack(call: _Call) -> None:
    _stack(call, 1, 0 if _rank(call.given["tensors"][0]) < 2 else 1)


def _vstack(call: _Call) -> None:
    _stack(call, 2, 0)


def _squeeze(call: _Call) -> None:
    """Keep the dims of one element."""
    x = call.given["self"]
    dims = call.given["dim"] if isinstance(call.given["dim"], list | tuple) else [call.given["dim"]]
    shape = x.meta["val"].shape
    ones = [d for d in dims if len(shape) and isinstance(shape[d], int) and shape[d] == 1]
    if not ones:
        call.program.replace(call.node, x)
    elif len(ones) < len(dims):
        call.replace(aten.squeeze.dims, x, ones)


def _all_dims(call: _Call) -> None:
    if not call.given["dim"]:
        set_argument(call.node, "dim", list(range(_rank(call.given["self"]))))


def _permute(call: _Call) -> None:
    rank = _rank(call.given["self"])
    dims = [d % rank for d in call.given["dims"]] if rank else []
    if dims != list(call.given["dims"]):
        set_argument(call.node, "dims", dims)


def _shuffle(call: _Call) -> None:
    x, groups = call.given["self"], call.given["groups"]
    split = call.insert(aten.unflatten.int, x, 1, [groups, -1])
    call.replace(aten.flatten.using_ints, call.insert(aten.transpose.int, split, 1, 2), 1, 2)


def _columns(call: _Call) -> None:
    if _rank(call.given["self"]) == 3:
        one = call.insert(aten.unsqueeze.default, call.given["self"], 0)
        rest = [value for name, value in call.given.items() if name != "self"]
        call.replace(aten.squeeze.dim, call.insert(aten.im2col.default, one, *rest), 0)


def _nearest(call: _Call) -> None:
    """By the scales where they are given, which are not quite the quotient of the sizes."""
    scales = [call.given["scales_h"], call.given["scales_w"]]
    by_scales = all(scale is not None for scale in scales)
    size, factors = (None, scales) if by_scales else (call.given["output_size"], None)
    call.replace(aten.upsample_nearest2d.vec, call.given["self"], size, factors)


def _copy(call: _Call) -> None:
    """A copy has the values of its source in the shape and dtype of its destination."""
    source, wanted = call.given["src"], call.node.meta["val"]
    if source.meta["val"].dtype != wanted.dtype:
        source = call.insert(aten.to.dtype, source, wanted.dtype)
    call.replace(aten.clone.default, call.insert(aten.expand_as.default, source, call.given["self"]))


def _cosine(call: _Call) -> None:
    """Each operand over its norm, or over ``eps`` where that is larger, as torch computes it."""
    dim, eps = call.given["dim"], call.given["eps"]
    parts = []
    for x in (call.given["x1"], call.given["x2"]):
        norm = call.insert(aten.linalg_vector_norm.default, x, 2, [dim], True)
        parts.append(call.insert(aten.div.Tensor, x, call.insert(aten.clamp.default, norm, eps)))
    call.replace(aten.sum.dim_IntList, call.insert(aten.mul.Tensor, *parts), [dim])


def _scatter(call: _Call) -> None:
    _cut(call, "src", None)


def _gather(call: _Call) -> None:
    _cut(call, "self", call.given["dim"])


def _cut(call: _Call, name: str, but: int | None) -> None:
    """Slice an operand to the sizes that the indices have, in all dims but one."""
    operand = call.given[name]
    sizes, wanted = operand.meta["val"].shape, call.given["index"].meta["val"].shape
    kept = None if but is None else but % max(len(sizes), 1)
    for dim, (size, count) in enumerate(zip(sizes, wanted, strict=True)):
        if dim != kept and isinstance(size, int) and isinstance(count, int) and count < size:
            operand = call.insert(aten.slice.Tensor, operand, dim, 0, count)
    if operand is not call.given[name]:
        set_argument(call.node, name, operand)


def _indices(call: _Call) -> None:
    """Integers of one dtype; masks stay."""
    given = [i.meta["val"].dtype if isinstance(i, fx.Node) else None for i in call.given["indices"]]
    if len({dtype for dtype in given if dtype not in (None, torch.bool)}) > 1:
        wide = [
            index if dtype in (None, torch.bool, torch.int64) else call.insert(aten.to.dtype, index, torch.int64)
            for index, dtype in zip(call.given["indices"], given, strict=True)
        ]
        set_argument(call.node, "indices", wide)


def _concatenation(call: _Call) -> None:
    """Leave out tensors [0], which torch takes beside those of any rank."""
    tensors = call.given["tensors"]
    some = [t for t in tensors if t.meta["val"].shape != (0,)]
    if 0 < len(some) < len(tensors) and any(_rank(t) > 1 for t in some):
        set_argument(call.node, "tensors", some)


_PROMOTING = ("mul", "div", "rsub", "remainder", "fmod", "floor_divide", "eq", "ne", "lt", "le", "gt", "ge")
_FORMS: dict[str, Callable[[_Call], object]] = {
    **dict.fromkeys((f"aten.{op}.{kind}" for op in ("add", "sub") for kind in ("Tensor", "Scalar")), _alpha),
    **dict.fromkeys((f"aten.{op}.{kind}" for op in _PROMOTING for kind in ("Tensor", "Scalar")), _as_floats),
    **dict.fromkeys(("aten.floor_divide", "aten.div.Tensor_mode", "aten.pow.Tensor_Scalar", "aten.clamp"), _as_floats),
    "aten.hstack": _hstack,
    "aten.vstack": _vstack,
    **dict.fromkeys(("aten.squeeze.dim", "aten.squeeze.dims"), _squeeze),
    **dict.fromkeys(("aten.amax", "aten.amin"), _all_dims),
    "aten.permute": _permute,
    **dict.fromkeys(("aten.native_channel_shuffle", "aten.channel_shuffle"), _shuffle),
    "aten.cat": _concatenation,
    "aten.copy": _copy,
    "aten.cosine_similarity": _cosine,
    "aten.gather": _gather,
    "aten.im2col": _columns,
    **dict.fromkeys(("aten.index.Tensor", "aten.index_put", "aten.index_put_"), _indices),
    "aten.upsample_nearest2d": _nearest,
    **dict.fromkeys(("aten.scatter.src", "aten.scatter_add", "aten.scatter_reduce.two"), _scatter),
}
