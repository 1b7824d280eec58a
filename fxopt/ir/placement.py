"""Where a program computes: its weights and the devices in its graph, moved for good or for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program
from fxopt.ir.transfer import repeatable


def place(program: Program, device: torch.device) -> None:
    """Let a program compute on a device from now on: its weights, buffers and the devices written into its graph.

    Calls of the program still take tensors on the CPU and answer on the CPU; what runs its graph node by node puts the
    inputs there itself, by :func:`fxopt.ir.transfer.put`. Tied weights stay tied.
    """
    if device == program.device:
        return
    known: dict[int, torch.Tensor] = {}
    for store, name, tensor in _tensors(program):
        if id(tensor) not in known:
            known[id(tensor)] = _twin(tensor, device)
        store[name] = known[id(tensor)]
    for module in _graphs(program):
        nodes = [(node, kwargs) for node in module.graph.nodes if (kwargs := _device_arguments(node, device))]
        for node, (args, named) in nodes:
            node.args, node.kwargs = args, named
        if nodes:
            module.recompile()
    program.device = device


@contextlib.contextmanager
def placed(program: Program, device: str | torch.device) -> Iterator[Program]:
    """The program on a device inside, and afterwards with the very tensors and graph that it had; nothing for the CPU.

    Nothing may be written into its weights, or into its graph, inside. Results come back by :func:`fxopt.ir.transfer.take`.
    """
    wanted = torch.device(device)
    if wanted == program.device:
        yield program
        return
    before, tensors = program.device, _tensors(program)
    calls = [
        (m, [(n, n.args, n.kwargs) for n in m.graph.nodes if _device_arguments(n, wanted)]) for m in _graphs(program)
    ]
    try:
        place(program, wanted)
        with repeatable(wanted):
            yield program
    finally:
        program.device = before
        for store, name, tensor in tensors:
            store[name] = tensor
        for module, nodes in calls:
            for node, args, kwargs in nodes:
                node.args, node.kwargs = args, kwargs
            if nodes:
                module.recompile()


def _tensors(program: Program) -> list[tuple[dict[str, Any], str, torch.Tensor]]:
    """Each place that holds a weight or buffer, with what it holds."""
    stores = [store for m in program.module.modules() for store in (m._parameters, m._buffers)]
    return [(store, name, tensor) for store in stores for name, tensor in store.items() if tensor is not None]


def _twin(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    moved = tensor.detach().to(device)
    return torch.nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else moved


def _graphs(program: Program) -> list[fx.GraphModule]:
    return [module for module in program.module.modules() if isinstance(module, fx.GraphModule)]


def _device_arguments(node: fx.Node, device: torch.device) -> tuple[Any, Any] | None:
    """Arguments with ``device`` in place of another, or of none in an op that makes a tensor of numbers; None if unchanged."""
    if node.op != "call_function":
        return None
    found = False

    def moved(value: Any) -> Any:
        nonlocal found
        if isinstance(value, torch.device) and value != device:
            found = True
            return device
        return value

    args, kwargs = pytree.tree_map(moved, (node.args, node.kwargs))
    schema = getattr(node.target, "_schema", None)
    names = [a.name for a in schema.arguments] if schema is not None else []
    makes = "device" in names and not any("Tensor" in str(a.type) for a in schema.arguments)  # type: ignore[union-attr]
    if makes and kwargs.get("device") is None and len(args) <= names.index("device"):
        kwargs, found = {**kwargs, "device": device}, True
    return (args, kwargs) if found else None
