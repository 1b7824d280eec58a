"""Find where to cut a model: the longest prefix that can be captured, and the rest in torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import CaptureError, FxoptError, UsageError
from fxopt.frontend.capture import CaptureWarning, capture
from fxopt.frontend.checks import check_python
from fxopt.frontend.eager_check import close, run_eager
from fxopt.frontend.until import Tail, called_once, outermost
from fxopt.ir.program import Program

_TRIES = 4
"""Cuts that are tried, from the last on."""


@dataclass(frozen=True)
class Split:
    """A model as a ``program`` and a ``tail``: ``tail(program(*args, **kwargs), *args, **kwargs)`` are its outputs."""

    program: Program
    tail: Tail


def capture_split(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, *, dynamic: Any = "batch"
) -> Split:
    """Capture a model up to where it branches on values, and keep the rest, such as non-maximum suppression, in torch.

    The cut is after the last submodule up to which ``torch.export`` takes the model, of those that run once; found by
    bisection. The program returns the outputs of submodules that the tail reads, and the two together are compared with
    the module. Raises CaptureError where the model does not run, or where no such cut gives its outputs.
    """
    check_python(module)
    kwargs = dict(kwargs or {})
    want = run_eager(module, args, kwargs)
    before = _before(module, args, kwargs, dynamic)
    for count in range(len(before), max(0, len(before) - _TRIES), -1):
        if (until := _read(module, args, kwargs, before[:count], want)) is None:
            continue
        program = _captured(module, args, kwargs, dynamic, until)
        if program is not None:
            return Split(program, Tail(module, until))
    raise CaptureError(
        f"{type(module).__name__} cannot be cut in two: no submodule up to which it can be captured gives what the rest reads",
        way_out="capture_parts(model, …) takes the largest parts that can be captured, each for itself",
    )


def _before(module: torch.nn.Module, args: Any, kwargs: Any, dynamic: Any) -> tuple[str, ...]:
    """The outermost submodules up to which the model can be captured, in order; of the first that cannot be, those inside
    it, and so on."""
    left = called_once(module, args, kwargs)
    found: tuple[str, ...] = ()
    while level := outermost(left):
        low, high = 0, len(level)
        while low < high:
            middle = (low + high + 1) // 2
            if _captured(module, args, kwargs, dynamic, level[middle - 1]) is None:
                high = middle - 1
            else:
                low = middle
        found += level[:low]
        left = [path for path in left if low < len(level) and path.startswith(f"{level[low]}.")]
    return found


def _captured(
    module: torch.nn.Module, args: Any, kwargs: Any, dynamic: Any, until: str | Sequence[str]
) -> Program | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CaptureWarning)
            return capture(module, args, kwargs, dynamic=dynamic, until=until)
    except FxoptError:
        return None


def _read(
    module: torch.nn.Module, args: Any, kwargs: Any, paths: tuple[str, ...], want: list[Any]
) -> tuple[str, ...] | None:
    """The submodules whose outputs the tail needs, the last among them; None where all of them are not enough."""
    from fxopt.frontend.submodule_calls import record_calls

    calls = record_calls(module, paths, args, kwargs)
    outputs = {path: calls[path][0].output for path in paths}

    def is_enough(some: tuple[str, ...]) -> bool:
        try:
            got = Tail(module, some)(tuple(outputs[path] for path in some), *args, **kwargs)
        except UsageError:
            return False
        leaves = pytree.tree_leaves(got)
        return len(leaves) == len(want) and all(map(close, want, leaves))

    if not paths or not is_enough(paths):
        return None
    for path in paths[:-1]:
        fewer = tuple(other for other in paths if other != path)
        if is_enough(fewer):
            paths = fewer
    return paths
