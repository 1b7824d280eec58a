"""Messages on why a model cannot be captured: the user's line, the reason, the way out."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import UserError
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from fxopt.errors import CaptureError, text_of
from fxopt.ir.printer import short_path, type_text

_SITE = Path(torch.__file__).parent.parent
_MACHINERY = (*(f"{_SITE / name}/" for name in ("torch", "sympy", "numpy")), f"{Path(__file__).parents[1]}/", "<")
"""Prefixes of files that are not the user's own."""
_STANDARD = f"{sysconfig.get_path('stdlib')}/"
"""Nor are files in here, except in site-packages below it."""

_SHOWN = 24
"""Lines of torch's own message that are shown."""

_MEANINGS = {
    "GuardOnDataDependentSymNode": "the line branches on values, or sizes a tensor by values, known only at run time",
    "Unsupported": "torch.export cannot trace this construct",
}
_PACKED = "a packed sequence sizes tensors by the values of its lengths, known only at run time"
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\^_])|[\x00-\x08\x0b-\x1f\x7f]")
"""Escape sequences for terminals, and control characters."""


def is_final(error: Exception) -> bool:
    """Whether exporting with fixed shapes would fail for the same reason."""
    return type(error).__name__ in _MEANINGS


def is_users(path: str) -> bool:
    """Whether a source file is the user's own or of a package with models, rather than of torch's machinery or ours."""
    return not path.startswith(_MACHINERY) and (path.startswith(f"{_SITE}/") or not path.startswith(_STANDARD))


def user_line(error: BaseException) -> str:
    """The innermost line outside torch that led to an error, as ``path:line: code``; empty if there is none."""
    for frame in reversed([f for e in _chain(error) for f in traceback.extract_tb(e.__traceback__)]):
        if is_users(frame.filename):
            return f"{short_path(frame.filename)}:{frame.lineno}: {frame.line}"
    return ""


def _reads_packed(error: BaseException) -> bool:
    """Whether it came of a recurrent layer that was given packed sequences."""
    frames = [frame for e in _chain(error) for frame, _ in traceback.walk_tb(e.__traceback__)]
    return any(isinstance(value, PackedSequence) for frame in frames for value in frame.f_locals.values())


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain[::-1]


def message_of(error: BaseException) -> str:
    """The whole message of an error, without escape sequences; the name of its class where it has none."""
    return _ESCAPES.sub("", text_of(error)).strip() or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of a message, shortened; with the next where it ends at a colon."""
    lines = [line.strip() for line in message_of(error).splitlines() if line.strip()]
    line = lines[0]
    for following in lines[1:]:
        if not line.endswith(":"):
            break
        line = f"{line} {following}"
    return line if len(line) < 240 else line[:240] + "…"


def _told(error: BaseException) -> list[str]:
    """torch's message as lines to show: all of it where it is written for users, such as the fixes it suggests."""
    if not isinstance(error, UserError):
        return [first_line(error)]
    lines = [line.rstrip() for line in message_of(error).splitlines() if line.strip()]
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"… and {len(lines) - _SHOWN} lines more, in `details`"]


def reason_of(error: BaseException) -> str:
    """Reason and place on one line, for a note."""
    where = user_line(error)
    kind = type(error).__name__
    reason = _MEANINGS.get(kind) or first_line(error)
    return f"{reason}  ({where})" if where else reason


def cannot_run(module: torch.nn.Module, args: Any, kwargs: Any, error: Exception) -> CaptureError:
    """The model itself fails on the example inputs, before anything was captured."""
    leaves = pytree.tree_leaves((args, kwargs))
    given = ", ".join(type_text(v) if isinstance(v, torch.Tensor) else repr(v)[:40] for v in leaves)
    where = user_line(error)
    lines = [
        f"{type(module).__name__} does not run on the example inputs ({given}), before any capture",
        *([f"    {where}"] if where else []),
        f"    {type(error).__name__}: {first_line(error)}",
    ]
    return CaptureError(
        "\n".join(lines),
        source=where or None,
        way_out="give inputs that model.eval()(*args, **kwargs) takes",
        details=message_of(error),
    )


def cannot_export(module: torch.nn.Module, error: Exception) -> CaptureError:
    """The model runs, but ``torch.export`` does not take it."""
    kind = type(error).__name__
    where = user_line(error)
    first, *others = _told(error)
    meaning = _PACKED if (packed := _reads_packed(error)) else _MEANINGS.get(kind)
    lines = [f"{type(module).__name__} runs, but cannot be captured: {meaning or f'{kind}: {first}'}"]
    if where:
        lines.append(f"    {where}")
    lines += [f"    {line}" for line in ([first, *others] if meaning else others)]
    scripted = [name for name, child in module.named_modules() if isinstance(child, torch.jit.ScriptModule)]
    if scripted:
        lines.append(
            f"  it holds scripted modules, which cannot be captured: {scripted[0]!r}; put the Python module there"
        )
    parts = [
        name
        for name, child in module.named_children()
        if not isinstance(child, torch.jit.ScriptModule) and any(True for _ in child.parameters())
    ]
    way_out = None
    if packed:
        way_out = (
            "give the recurrent layer the padded batch, and take each last step by its length: steps before it are the same\n"
            "  in a layer of one direction"
        )
    elif parts:
        way_out = (
            f"capture a part instead: capture(model, …, at={parts[0]!r}) (parts: {', '.join(parts)}),\n"
            "  or capture_parts(model, …) for the largest parts that can be captured"
            + (
                ",\n  or capture_split(model, …) for all up to there, with the rest in torch"
                if kind in _MEANINGS
                else ""
            )
        )
    elif where:
        way_out = "write the line with tensor operations alone (torch.where, torch.cond, a mask)"
    return CaptureError("\n".join(lines), source=where or None, way_out=way_out, details=message_of(error))
