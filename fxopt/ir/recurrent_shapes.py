"""Shapes of recurrent layers without their steps: torch would derive them by running every step on fake tensors."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from fxopt.ir.recurrent import GATES

_SEQUENCES = tuple(getattr(torch.ops.aten, kind).input for kind in GATES)
_KEYS = (torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.Autograd)


@contextlib.contextmanager
def recurrent_in_one_step() -> Iterator[None]:
    """Derive the shapes of LSTM, GRU and RNN at once on fake tensors, whatever the number of steps; real ones run as usual."""
    saved = {op: dict(op.py_kernels) for op in _SEQUENCES}
    for op in _SEQUENCES:
        for key in _KEYS:
            op.py_kernels[key] = functools.partial(_either, op.py_kernels[key])
        op._dispatch_cache.clear()
    try:
        yield
    finally:
        for op, kernels in saved.items():
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()


def _either(kernel: Callable[..., Any], x: torch.Tensor, *args: Any) -> Any:
    """Torch's own kernel for real tensors, and under autocast, whose dtypes it decides."""
    states, params = args[:2]
    one_dtype = all(t.dtype == x.dtype for t in (*([states] if isinstance(states, torch.Tensor) else states), *params))
    return _sequence(x, *args) if isinstance(x, FakeTensor) and one_dtype else kernel(x, *args)


def _sequence(
    x: torch.Tensor,
    states: Any,
    params: Sequence[torch.Tensor],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """``x [step, batch, in]`` and states ``[layers * directions, batch, out]``: the output and the last states, empty."""
    directions = 2 if bidirectional else 1
    states = [states] if isinstance(states, torch.Tensor) else list(states)
    step, batch = (1, 0) if batch_first else (0, 1)
    width = states[0].shape[-1]
    _check_weights(x.shape[-1], width, states[-1].shape[-1], params, biases, layers * directions, directions)
    for state in states:
        _check(state.dim() == 3 and state.shape[0] == layers * directions, f"a state of {list(state.shape)}")
        torch._check(state.shape[1] == x.shape[batch], lambda: "a state has another batch than the input")
    out = x.new_empty((x.shape[step], x.shape[batch], directions * width))
    return (out.transpose(0, 1) if batch_first else out, *(state.new_empty(state.shape) for state in states))


def _check_weights(
    inputs: Any, width: Any, hidden: Any, params: Sequence[torch.Tensor], biases: bool, cells: int, directions: int
) -> None:
    size = len(params) // cells
    rows = params[0].shape[0]
    for i in range(cells):
        some = params[i * size : (i + 1) * size]
        read = inputs if i < directions else directions * width
        want = [[rows, read], [rows, width]] + ([[rows], [rows]] if biases else [])
        want += [[width, hidden]] if size > len(want) else []
        got = [list(t.shape) for t in some]
        _check(got == want, f"weights of {got}, expected {want}")


def _check(fine: bool, what: str) -> None:
    if not fine:
        raise RuntimeError(f"recurrent layer: {what}")
