"""Capture: from an nn.Module to a Program, through ``torch.export``."""

from __future__ import annotations

import contextlib
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.aliasing import make_functional
from fxopt.errors import CaptureError, UsageError
from fxopt.program import Program
from fxopt.shapes import derive_shapes
from fxopt.text import short_path

_TORCH = str(Path(torch.__file__).parent)


class CaptureWarning(UserWarning):
    """The model was captured, but not with all that was asked for."""


def capture(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    dynamic: Any = "batch",
    at: str | None = None,
) -> Program:
    """Capture ``module`` as it runs on example inputs, in evaluation mode.

    ``args`` and ``kwargs`` may be any pytree of tensors and numbers. ``dynamic`` says which dims may vary:
    ``"batch"`` the first dim of every tensor input, falling back to fixed shapes with a CaptureWarning where the
    model does not allow it; ``None`` none; anything else goes to ``torch.export`` as its ``dynamic_shapes``.
    With ``at="backbone"`` only that submodule is captured, with the inputs it receives when ``module`` runs.

    Raises CaptureError, with the user's line and the way out, for a model that ``torch.export`` does not take.
    The module is left as it was, train mode included.
    """
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"capture takes an nn.Module, got {type(module).__name__}; wrap a function in a module")
    if not isinstance(args, tuple):
        raise UsageError(f"args must be a tuple of inputs, got {type(args).__name__}; write ({type(args).__name__.lower()},)")
    kwargs = dict(kwargs or {})
    with _evaluating(module), torch.no_grad():
        if at is not None:
            from fxopt.partial import inputs_of

            module, args, kwargs = inputs_of(module, at, args, kwargs)
        exported, notes = _export(module, args, kwargs, dynamic)
        program = from_exported(exported, args, kwargs, notes=notes)
        _check_same(module, program, args, kwargs)
    return program


def from_exported(
    exported: torch.export.ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any], *, notes: tuple[str, ...] = ()
) -> Program:
    """Make a Program of an ExportedProgram: guards dropped, in-place ops made functional, unused weights removed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unlifted = exported.module()
    for node in list(unlifted.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            unlifted.graph.erase_node(node)
    module = fx.GraphModule(unlifted, unlifted.graph, class_name="Program")
    ranges = {}
    for symbol, bounds in exported.range_constraints.items():
        upper = int(bounds.upper) if bounds.upper.is_finite and bounds.upper < 2**31 else None
        ranges[str(symbol)] = (int(bounds.lower), upper)
    program = Program(module, args, kwargs, ranges=ranges, notes=notes)
    make_functional(program)
    program.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    derive_shapes(program)
    return program


def _export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Any
) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    if dynamic == "batch":
        wide_args, wide_kwargs = pytree.tree_map(_widen_batch, (args, kwargs))
        batch = torch.export.Dim("batch", min=1)
        shapes = pytree.tree_map(lambda v: {0: batch} if _has_batch(v) else None, (args, kwargs))
        try:
            return _run_export(module, wide_args, wide_kwargs, _by_name(module, *shapes)), ()
        except Exception as error:
            reason = _first_line(error)
            try:
                exported = _run_export(module, args, kwargs, None)
            except Exception as static_error:
                raise _capture_error(module, static_error) from static_error
            note = f"captured with a fixed batch of {_batch_of(args, kwargs)}: {reason}"
            warnings.warn(CaptureWarning(note), stacklevel=4)
            return exported, (note,)
    try:
        return _run_export(module, args, kwargs, dynamic or None), ()
    except Exception as error:
        raise _capture_error(module, error) from error


def _run_export(module: torch.nn.Module, args: Any, kwargs: Any, shapes: Any) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)


def _by_name(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dynamic shapes in the form torch.export wants: one entry an argument, in the order of the signature."""
    return dict_or_tuple if (dict_or_tuple := _bind(module, args, kwargs)) else (*args, *kwargs.values())


def _bind(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    import inspect

    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    return dict(bound.arguments)


def _has_batch(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _widen_batch(value: Any) -> Any:
    """Two examples for one: a size of 1 would be taken for a constant."""
    if _has_batch(value) and value.shape[0] == 1:
        return torch.cat([value, value])
    return value


def _batch_of(args: Any, kwargs: Any) -> int:
    return next((v.shape[0] for v in pytree.tree_leaves((args, kwargs)) if _has_batch(v)), 1)


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Any:
    modes = {name: m.training for name, m in module.named_modules()}
    module.eval()
    try:
        yield
    finally:
        for name, m in module.named_modules():
            m.training = modes.get(name, False)


def user_line(error: BaseException) -> str:
    """The innermost line outside torch that led to an error, as ``path:line: code``; empty if there is none."""
    frames = [f for e in _chain(error) for f in traceback.extract_tb(e.__traceback__)]
    own = str(Path(__file__).parent)
    for frame in reversed(frames):
        if not frame.filename.startswith((_TORCH, own, "<")):
            return f"{short_path(frame.filename)}:{frame.lineno}: {frame.line}"
    return ""


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain[::-1]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "specialized it to be a constant" in line:
            return "the model fixes the batch size: " + line.lstrip("- ")
    return lines[0] if lines else type(error).__name__


_WAYS_OUT = {
    "GuardOnDataDependentSymNode": "the line branches or sizes a tensor by values that are known only at run time",
    "Unsupported": "torch.export cannot trace this construct",
}


def _capture_error(module: torch.nn.Module, error: BaseException) -> CaptureError:
    kind = type(error).__name__
    where = user_line(error)
    lines = [f"{type(module).__name__} cannot be captured: {_WAYS_OUT.get(kind, kind + ': ' + _first_line(error))}"]
    if where:
        lines.append(f"    {where}")
    if kind in _WAYS_OUT:
        lines.append(f"    {_first_line(error)}")
    children = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    if children:
        lines.append(
            f"  capture a part instead: capture(model, …, at={children[0]!r}) (parts: {', '.join(children)}),\n"
            "  or capture_parts(model, …) for the largest parts that can be captured"
        )
    return CaptureError("\n".join(lines))


def _check_same(module: torch.nn.Module, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Hold the captured graph against the module itself, on the example inputs."""
    if any(n for n in program.graph.nodes if "random" in str(getattr(n.target, "tags", ""))):
        return
    want = pytree.tree_leaves(module(*_fresh(args), **_fresh(kwargs)))
    got = pytree.tree_leaves(program(*_fresh(args), **_fresh(kwargs)))
    for i, (a, b) in enumerate(zip(want, got, strict=True)):
        if isinstance(a, torch.Tensor) and not torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise CaptureError(
                f"the captured graph differs from the module at output {i} by {(a - b).abs().max():.3g}\n"
                "  does the model draw random numbers, or keep state between calls?"
            )


def _fresh(value: Any) -> Any:
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, value)
