"""Run a program without side effects: buffers, written weights, inputs and the random state are restored."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.alias_analysis import state_of, written_outside
from fxopt.ir.program import Program
from fxopt.numerics.float64 import float64_default, widen
from fxopt.numerics.random_draws import KeyedDraws, draw_keys

_Interpreter = TypeVar("_Interpreter", bound=fx.Interpreter)


@dataclass(frozen=True)
class Run:
    """Flat outputs, sentences that say which share memory with an input, a weight or an earlier output, and the state.

    ``state`` has the requested state by description: written inputs and weights after the run, and the same, with the
    outputs, after a second run.
    """

    outputs: list[Any]
    aliases: frozenset[str]
    state: dict[str, Any] = field(default_factory=dict)


def run(
    program: Program,
    inputs: list[Any],
    *,
    wide: bool,
    draws: dict[str, str] | None = None,
    state: Collection[str] = (),
) -> Run:
    """Run copies of flat inputs, as float64 with ``wide``; random numbers and buffers are the same in every run.

    ``draws`` are the keys of draws by node name (:func:`fxopt.numerics.random_draws.draw_keys`); ``state`` names inputs and
    weights to report after the run and after a second one, see :func:`state_names`.
    """
    keys = draw_keys(program) if draws is None else draws
    with torch.random.fork_rng(devices=[]), untouched(program), float64_default() if wide else contextlib.nullcontext():
        fresh, outputs = _called(program, inputs, keys, wide=wide)
        owners = {
            _memory(v): f"input {node.target}"
            for node, v in zip(program.inputs(), fresh, strict=True)
            if isinstance(v, torch.Tensor)
        }
        owners |= {_memory(t): f"weight {name}" for name, t in program.tensors().items()}
        found: dict[str, Any] = {}
        if state:
            found |= _state(program, fresh, state, "after a run")
            outputs = [v.clone() if isinstance(v, torch.Tensor) and _memory(v) in owners else v for v in outputs]
            again, second = _called(program, inputs, keys, wide=wide)
            found |= {f"output {i} of a second run": v for i, v in enumerate(second)}
            found |= _state(program, again, state, "after a second run")
    aliases = []
    for i, out in enumerate(outputs):
        if isinstance(out, torch.Tensor) and out.numel():
            owner = owners.setdefault(_memory(out), f"output {i}")
            if owner != f"output {i}":
                aliases.append(f"output {i} shares memory with {owner}")
    return Run(outputs, frozenset(aliases), found)


def _called(program: Program, inputs: list[Any], keys: dict[str, str], *, wide: bool) -> tuple[list[Any], list[Any]]:
    """Flat inputs, which a run may have written into, and its flat outputs."""
    fresh = [v.clone() if isinstance(v, torch.Tensor) else v for v in inputs]
    fresh = [widen(v) for v in fresh] if wide else fresh
    torch.default_generator.manual_seed(0)
    if keys:
        with torch.no_grad():
            return fresh, pytree.tree_leaves(KeyedDraws(program, keys).run(*fresh, enable_io_processing=False))
    args, kwargs = pytree.tree_unflatten(fresh, pytree.tree_structure((program.args, program.kwargs)))
    return fresh, pytree.tree_leaves(program(*args, **kwargs))


def _state(program: Program, inputs: list[Any], names: Collection[str], when: str) -> dict[str, Any]:
    values = {f"input {n.target}": v for n, v in zip(program.inputs(), inputs, strict=True)}
    values |= {f"buffer {name}": tensor for name, tensor in program.tensors().items()}
    return {f"{name} {when}": values[name].clone() for name in names if name in values}


def state_names(program: Program) -> set[str]:
    """The persistent memory that a program writes into: ``input x``, ``buffer seen``."""
    kinds = {"placeholder": "input", "get_attr": "buffer"}
    return {f"{kinds[node.op]} {node.target}" for node in written_outside(program)}


def started(interpreter: _Interpreter, inputs: list[Any]) -> _Interpreter:
    """An interpreter that is about to run node by node, on copies of flat inputs: a model may write into them."""
    interpreter.args_iter = iter([v.clone() if isinstance(v, torch.Tensor) else v for v in inputs])
    return interpreter


def replayed(interpreter: fx.Interpreter, twin: Program, inputs: list[Any]) -> list[Any]:
    """Flat outputs of an interpreter of ``twin``, a program in float64, on flat inputs; its state is as before."""
    with torch.no_grad(), untouched(twin):
        results = interpreter.run(*map(widen, inputs), enable_io_processing=False)
    return list(results) if isinstance(results, (tuple, list)) else [results]


@contextlib.contextmanager
def untouched(program: Program) -> Iterator[None]:
    """Replace what a run may write into by copies, and restore it afterwards.

    Copies, not restored values: an output that is a buffer keeps its value after the run.
    """
    state = state_of(program)
    weights = {id(tensor) for tensor in program.tensors().values()} - state
    owners = list(program.module.modules())
    saved: list[tuple[Any, str, Any]] = [
        (m._buffers, name, t) for m in owners for name, t in m._buffers.items() if id(t) not in weights
    ]
    saved += [(m._parameters, name, t) for m in owners for name, t in m._parameters.items() if id(t) in state]
    memo: dict[int, Any] = {}  # tied tensors stay tied
    for store, name, tensor in saved:
        store[name] = copy.deepcopy(tensor, memo)
    try:
        yield
    finally:
        for store, name, tensor in saved:
            store[name] = tensor


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def example_arrays(program: Program) -> list[Any]:
    """The tensors of the example inputs as flat numpy arrays, as a runner takes them."""
    return [v.numpy() for v in program.example_leaves() if isinstance(v, torch.Tensor)]
