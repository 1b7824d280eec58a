"""Why a dim was specialized: shape guards met while tracing, with the user's lines."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import mock

import sympy
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fxopt.frontend.diagnostics import is_users, reason_of
from fxopt.ir.printer import short_path

T = TypeVar("T")
_OTHER_SIZES = (3, 4, 5, 7, 64, 1000)
"""Not 0 and 1: torch specializes those everywhere, and a model may well work for all others."""

_SCANNED, _SMALL = 129, 8
"""The largest batch up to which a limit is searched, and the one up to which it is of no use."""


@dataclass(frozen=True)
class Guard:
    """A condition that held for the example, and the innermost line of the user's that led to it (maybe empty)."""

    condition: Any
    where: str

    def holds(self, size: int) -> bool:
        """Whether the condition is met where every symbolic size is ``size``."""
        sizes = dict.fromkeys(self.condition.free_symbols, sympy.Integer(size))
        return bool(self.condition.xreplace(sizes) != sympy.false)


def noting_guards(guards: list[Guard], export: Callable[[], T]) -> T:
    """Call a function, and collect the guards on symbolic sizes that it adds. torch's own list has no Python lines."""

    def note(env: ShapeEnv, prefix: str, condition: Any, *args: Any, **kwargs: Any) -> None:
        if prefix == "eval" and getattr(condition, "free_symbols", None):
            guards.append(Guard(condition, _line_here()))
        log_guard(env, prefix, condition, *args, **kwargs)

    log_guard: Any = getattr(ShapeEnv, "_log_guard", None)
    if log_guard is None:  # it is private, and only a message depends on it
        return export()
    with mock.patch.object(ShapeEnv, "_log_guard", note):
        return export()


def _line_here() -> str:
    for frame, number in traceback.walk_stack(None):
        if frame.f_code is noting_guards.__code__:  # further out are the callers of the capture
            return ""
        path = frame.f_code.co_filename
        if is_users(path):
            line = traceback.FrameSummary(path, number, frame.f_code.co_name).line
            return f"{short_path(path)}:{number}: {line}"
    return ""


def largest_batch(guards: list[Guard]) -> int | None:
    """The largest batch up to which all guards hold, as where a model takes another kernel from 64 on; None for a small one."""
    broken = next((n for n in range(2, _SCANNED) if not all(guard.holds(n) for guard in guards)), None)
    return broken - 1 if broken is not None and broken > _SMALL else None


def fixed_batch_reason(error: BaseException, guards: list[Guard]) -> str:
    """Why the batch cannot vary, on one line, with the user's line where it is known."""
    if type(error).__name__ != "UserError" or "Constraints violated" not in str(error):
        return re.sub(r"\bs\d+\b", "batch", reason_of(error))
    broken = next((g for g in guards if not all(map(g.holds, _OTHER_SIZES))), None)
    if broken is None:
        return "the model takes some sizes only"
    if not any(map(broken.holds, _OTHER_SIZES)):
        reason = "the model takes this size only"
    else:
        reason = f"the model takes other ways, or none, unless {_text(broken.condition)}"
    return f"{reason}  ({broken.where})" if broken.where else reason


def _text(condition: Any) -> str:
    related = isinstance(condition, sympy.core.relational.Relational)
    text = f"{condition.lhs} {condition.rel_op} {condition.rhs}" if related else str(condition)
    return re.sub(r"\bs\d+\b", "batch", text)
