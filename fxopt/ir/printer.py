"""A graph as text: one line a node, as error messages, goldens and docstrings show it.

::

    %x : f32[batch,3,8,8]
    %w = param "conv.weight" : f32[8,3,3,3]
    %y = aten.conv2d(%x, %w, None, [1, 1], [1, 1]) : f32[batch,8,8,8]
    return %y

An op is written without its overload where that is ``default``. :mod:`fxopt.ir.parser` reads the same form.
"""

from __future__ import annotations

import functools
import operator
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import fx

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16",
    torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.uint16: "u16",
    torch.bool: "bool", torch.complex64: "c64", torch.complex128: "c128",
}  # fmt: skip

_TORCH = f"{Path(torch.__file__).parent}/"
_SYMBOL = re.compile(r"\b[su]\d+\b")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def op_name(node: fx.Node) -> str:
    """Name of what a node calls: ``aten.conv2d``, ``aten.mean.dim``, ``getitem``; or the op of a node that calls nothing."""
    return target_name(node.target) if node.op == "call_function" else node.op


def target_name(target: Any) -> str:
    """Name of what a node with this target calls."""
    if isinstance(target, torch._ops.OpOverload):
        return _overload_name(target)
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


@functools.cache
def _overload_name(target: torch._ops.OpOverload) -> str:
    """torch puts the text together anew each time that it is asked for it."""
    return str(target).removesuffix(".default")


def type_text(value: Any, dims: dict[str, str] | None = None) -> str:
    """Dtype and shape of a (fake) tensor, ``f32[batch,3]``; a list of them for several; the value for numbers."""
    if isinstance(value, torch.Tensor):
        shape = ",".join(_SYMBOL.sub(lambda m: (dims or {}).get(m[0], m[0]), str(size)) for size in value.shape)
        return f"{DTYPES.get(value.dtype, str(value.dtype))}[{shape}]"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(type_text(v, dims) for v in value) + ")"
    if isinstance(value, torch.SymInt):
        return "int"
    return type(value).__name__


def argument_text(value: Any) -> str:
    """An argument of a node as the text form writes it."""
    if isinstance(value, fx.Node):
        return f"%{value.name}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(argument_text(v) for v in value) + "]"
    if isinstance(value, torch.dtype):
        return DTYPES.get(value, str(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {argument_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
        return str(value) if not isinstance(value, torch.device) else f"'{value}'"
    return repr(value)


def source_line(node: fx.Node) -> str:
    """The user's line that made a node, ``net.py:42``; empty if not known. A region without one has its first.

    Frames inside torch are skipped; a path is relative to the current folder or to site-packages.
    """
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    for path, line in reversed(frames):
        if path.startswith(_TORCH) or path.startswith("torch/") or path.startswith("<"):
            continue
        return f"{short_path(path)}:{line}"
    return next((line for inner in _inside(node) if (line := source_line(inner))), "")


def _inside(node: fx.Node) -> list[fx.Node]:
    """The nodes of the graphs that a node calls."""
    if not isinstance(node.target, torch._ops.HigherOrderOperator) or node.graph.owning_module is None:
        return []
    names = [str(used.target) for used in node.all_input_nodes if used.op == "get_attr"]
    values = [operator.attrgetter(name)(node.graph.owning_module) for name in names]
    return [inner for value in values if isinstance(value, fx.GraphModule) for inner in value.graph.nodes]


def short_path(path: str) -> str:
    """A path relative to the current folder or to site-packages."""
    for root in [str(Path.cwd()), *sys.path]:
        if root and path.startswith(root + "/"):
            return path[len(root) + 1 :]
    return path


def node_text(node: fx.Node, *, source: bool = False, dims: dict[str, str] | None = None) -> str:
    """One node as a line of the text form, with its source line after it if asked for."""
    if node.op == "output":
        leaves = node.args[0]
        items = leaves if isinstance(leaves, (list, tuple)) else (leaves,)
        return "return " + ", ".join(argument_text(a) for a in items)
    value = node.meta.get("val")
    kind = f" : {type_text(value, dims)}" if value is not None else ""
    if node.op == "placeholder":
        text = f"%{node.name}{kind}"
    elif node.op == "get_attr":
        text = f'%{node.name} = param "{node.target}"{kind}'
    else:
        arguments = [argument_text(a) for a in node.args]
        arguments += [f"{k}={argument_text(v)}" for k, v in node.kwargs.items()]
        text = f"%{node.name} = {op_name(node)}({', '.join(arguments)}){kind}"
    where = source_line(node) if source else ""
    return f"{text}        {where}" if where else text


def graph_text(graph: fx.Graph, *, source: bool = False, dims: dict[str, str] | None = None) -> str:
    """A whole graph in the text form; parameters are listed before their first use."""
    lines: list[str] = []
    shown: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            continue
        for needed in node.all_input_nodes:
            if needed.op == "get_attr" and needed not in shown:
                shown.add(needed)
                lines.append(node_text(needed, dims=dims))
        lines.append(node_text(node, source=source, dims=dims))
    return "\n".join(lines)
