"""The float64 twin of a program, in which exact passes are proved: float32 noise would hide real errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.alias_analysis import state_of
from fxopt.ir.held_weight import WIDE
from fxopt.ir.op_table import arguments
from fxopt.ir.program import Program, fake_of
from fxopt.ir.shape_inference import fake_mode
from fxopt.ir.shared_copy import shared_copy
from fxopt.ir.widened import Widened


def widen(value: Any) -> Any:
    """A floating tensor or dtype as float64, a complex one as complex128; anything else unchanged."""
    if isinstance(value, torch.Tensor):
        return value.to(WIDE[value.dtype]) if value.dtype in WIDE else value
    return WIDE.get(value, value) if isinstance(value, torch.dtype) else value


@contextlib.contextmanager
def float64_default() -> Iterator[None]:
    """Make float64 the default dtype, for tensors created without one and quotients of integers, which have none in the graph."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def coarsest(program: Program) -> float:
    """The largest epsilon among the floating dtypes of a program's values: 2**-23 in float32, 2**-7 with bfloat16; 0 without."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    dtypes = {v.dtype for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()}
    return max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)


def to_float64(program: Program, *, to_run_passes: bool = False) -> Program:
    """Return a copy that computes in float64: weights, buffers, example inputs and dtypes written into the graph.

    A weight is :class:`~fxopt.ir.widened.Widened`: it has the memory of the program's own, which must not be written into as
    long as the copy is in use. What a run may write into is copied.

    Checks of dtypes are dropped; the quantize and dequantize ops get twins that work in float64. The nodes' fake
    tensors become float64 only with ``to_run_passes``.
    """
    wide: dict[int, torch.Tensor] = {}
    state = state_of(program)
    for tensor in program.tensors().values():
        if tensor.dtype in WIDE and id(tensor) not in wide:
            value = widen(tensor.detach()) if id(tensor) in state else Widened(tensor.detach())
            wide[id(tensor)] = torch.nn.Parameter(value, False) if isinstance(tensor, torch.nn.Parameter) else value
    twin = shared_copy(program, wide)
    for inner in _inner_modules(twin.module):
        for node in inner.graph.nodes:
            node.args, node.kwargs = pytree.tree_map(widen, (node.args, node.kwargs))
        inner.recompile()
    for node in list(twin.graph.nodes):
        if _checks_dtype(node):
            twin.graph.erase_node(node)
        else:
            node.target, node.args, node.kwargs = _wide_call(node)
    if to_run_passes:
        _widen_types(twin)
    twin.args, twin.kwargs = pytree.tree_map(widen, (twin.args, twin.kwargs))
    twin.module.recompile()
    return twin


def _widen_types(twin: Program) -> None:
    """Make the nodes' fake tensors float64: directly, which takes a third of the time that casting them does."""
    mode = fake_mode(twin)
    made: dict[int, tuple[Any, Any]] = {}  # a value and its twin: nodes share values of one type

    def wide(value: Any) -> Any:
        dtype = WIDE.get(value.dtype) if isinstance(value, torch.Tensor) else None
        if dtype is None:
            return value
        if id(value) not in made:
            made[id(value)] = value, fake_of(mode, value, dtype)
        return made[id(value)][1]

    for node in twin.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(wide, node.meta["val"])


def has_twin_graph(program: Program, twin: Program) -> bool:
    """Whether :func:`to_float64` of a program has the same graph as ``twin``."""
    nodes = [node for node in program.graph.nodes if not _checks_dtype(node)]
    others = [(n.name, n.op, str(n.target), str((n.args, n.kwargs))) for n in twin.graph.nodes]
    if len(nodes) != len(others):
        return False
    calls = ((n, *_wide_call(n)) for n in nodes)
    return all(
        (n.name, n.op, str(to), str((args, kwargs))) == b
        for (n, to, args, kwargs), b in zip(calls, others, strict=True)
    )


def _checks_dtype(node: fx.Node) -> bool:
    return node.op == "call_function" and "_assert_tensor_metadata" in str(node.target)


def _wide_call(node: fx.Node) -> tuple[Any, Any, Any]:
    """Target and arguments of a node's twin. Quantize ops have another target, as they insist on float32."""
    target: Any = node.target
    if node.op == "call_function" and str(target).startswith("quantized_decomposed."):
        from fxopt.numerics import float64_quant_ops

        target = float64_quant_ops.wide_twin(target)
    args, kwargs = pytree.tree_map(widen, (node.args, node.kwargs))
    if target is torch.ops.aten.rms_norm.default and arguments(node)["eps"] is None:
        args, kwargs = args[:3], {**kwargs, "eps": default_epsilon(node.meta["val"].dtype)}
    return target, args, kwargs


def default_epsilon(dtype: torch.dtype) -> float:
    """torch's default eps of a norm: that of the dtype, or of float32 for half precision, which is computed in it."""
    return torch.finfo(torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype).eps


def _inner_modules(module: fx.GraphModule) -> list[fx.GraphModule]:
    """The graphs of autocast regions and branches."""
    return [inner for inner in module.modules() if isinstance(inner, fx.GraphModule) and inner is not module]
