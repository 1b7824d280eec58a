"""The attempts at ``torch.export``: as many dynamic dims as the model allows."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.nn.modules import transformer
from torch.utils import _pytree as pytree

from fxopt.errors import UsageError
from fxopt.frontend.diagnostics import cannot_export, is_final
from fxopt.frontend.dynamic_shapes import Dims, dynamic_shapes, two_or_more, widened
from fxopt.frontend.replaced_forward import replaced_forward
from fxopt.frontend.shape_guards import Guard, fixed_batch_reason, largest_batch, noting_guards
from fxopt.ir.recurrent_shapes import recurrent_in_one_step

_Exported = torch.export.ExportedProgram


def export_module(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Any
) -> tuple[_Exported, tuple[str, ...], str]:
    """Export with as much of ``dynamic`` as the model allows.

    Returns the export, notes, and a warning if the model allows nothing of it. Raises CaptureError, UsageError.
    """
    batched = _batched_inputs(args, kwargs) if isinstance(dynamic, str) else []
    if isinstance(dynamic, str) and dynamic != "batch":
        raise UsageError(f"dynamic must be 'batch', None or the dynamic_shapes of torch.export, got {dynamic!r}")
    reason = ""
    for some in [batched, batched[:1]] if len(batched) > 1 else [batched] if batched else []:
        guards: list[Guard] = []
        notes: tuple[str, ...] = ()
        try:
            exported = noting_guards(guards, functools.partial(_export_batch, module, args, kwargs, some))
        except Exception as error:
            if is_final(error):
                raise cannot_export(module, error) from error
            # the first attempt's error: the second treats inputs of equal batch size as unrelated
            reason = reason or fixed_batch_reason(error, guards)
            largest = largest_batch(guards)
            try:
                if largest is None:
                    continue
                exported = _export_batch(module, args, kwargs, some, largest)
            except Exception:
                continue
            notes = (f"captured for batches of {largest} at most: {fixed_batch_reason(error, guards)}",)
        names = _input_names(args, kwargs)
        fixed = [name for i, name in enumerate(names) if name and i not in some]
        note = f"the batch is dynamic in input {', '.join(names[i] for i in some)} only; fixed: {', '.join(fixed)}"
        return exported, (*notes, *([note] if fixed else [])), ""
    try:
        exported = _export_as_asked(module, args, kwargs, None if isinstance(dynamic, str) else dynamic or None)
    except Exception as error:
        raise cannot_export(module, error) from error
    if not reason:
        return exported, _sizes_from_two(exported, dynamic), ""
    size = pytree.tree_leaves((args, kwargs))[batched[0]].shape[0]
    note = f"captured with a fixed batch of {size}: {reason}"
    return exported, (note,), note


def _batched_inputs(args: Any, kwargs: Any) -> list[int]:
    """Numbers of the inputs whose first dim is the batch: the first tensor with dims, and those of the same size."""
    leaves = pytree.tree_leaves((args, kwargs))
    sizes = {i: v.shape[0] for i, v in enumerate(leaves) if isinstance(v, torch.Tensor) and v.dim()}
    return [i for i, size in sizes.items() if size == next(iter(sizes.values()))]


def _input_names(args: Any, kwargs: Any) -> list[str]:
    """A name for every tensor input that has dims; empty for the others."""
    paths = [pytree.keystr(path) for path, _ in pytree.tree_leaves_with_path((args, kwargs))]
    paths = [p.replace("[0]", "args", 1) if p.startswith("[0]") else p.replace("[1]", "kwargs", 1) for p in paths]
    leaves = pytree.tree_leaves((args, kwargs))
    return [p if isinstance(v, torch.Tensor) and v.dim() else "" for p, v in zip(paths, leaves, strict=True)]


def _export_batch(
    module: torch.nn.Module, args: Any, kwargs: Any, batched: list[int], largest: int | None = None
) -> _Exported:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    batch = torch.export.Dim("batch", min=1, max=largest)
    dims: list[Dims] = [{0: batch} if i in batched else None for i in range(len(leaves))]
    wide = [two_or_more(v) if i in batched else v for i, v in enumerate(leaves)]
    wide_args, wide_kwargs = pytree.tree_unflatten(wide, spec)
    with _named_keywords(module, wide_kwargs):
        return _run_export(module, wide_args, wide_kwargs, dynamic_shapes(module, wide_args, wide_kwargs, dims))


def _export_as_asked(module: torch.nn.Module, args: Any, kwargs: Any, shapes: Any) -> _Exported:
    """With the user's ``dynamic_shapes``: first on an example in which every dynamic dim has two indices or more."""
    wide_args, wide_kwargs = widened(module, args, kwargs, shapes)
    pairs = zip(pytree.tree_leaves((args, kwargs)), pytree.tree_leaves((wide_args, wide_kwargs)), strict=True)
    try:
        return _run_export(module, wide_args, wide_kwargs, shapes)
    except Exception:
        if all(given is wide for given, wide in pairs):
            raise
        with contextlib.suppress(Exception):  # a model that takes the example may not take a larger one
            return _run_export(module, args, kwargs, shapes)
        raise


def _sizes_from_two(exported: _Exported, dynamic: Any) -> tuple[str, ...]:
    """A note on the sizes that begin at two only because no range was given for them."""
    hints = [dim for dim in pytree.tree_leaves(dynamic) if isinstance(dim, type(torch.export.Dim.AUTO))]
    low = any(bounds.lower == 2 for bounds in exported.range_constraints.values())
    if not hints or not low:
        return ()
    return (
        "sizes given by Dim.AUTO or Dim.DYNAMIC begin at 2, as torch takes 0 and 1 for constants unless a range includes "
        "them: torch.export.Dim(name, min=1)",
    )


def _run_export(module: torch.nn.Module, args: Any, kwargs: Any, shapes: Any) -> _Exported:
    shapes_log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = shapes_log.level
    shapes_log.setLevel(logging.ERROR)
    try:
        # where it fails, torch.export prints the graph so far
        quietly = contextlib.redirect_stderr(io.StringIO())
        with recurrent_in_one_step(), _masks_as_given(), warnings.catch_warnings(), quietly:
            warnings.simplefilter("ignore")
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    finally:
        shapes_log.setLevel(level)


@contextlib.contextmanager
def _masks_as_given() -> Iterator[None]:
    """Keep torch's transformers from comparing a mask with a causal one, unless they are told that it is causal.

    They do so to choose a faster kernel, which is a branch on values; the results are equal.
    """
    if not hasattr(transformer, "_detect_is_causal_mask"):  # it is private
        yield
        return
    with mock.patch.object(
        transformer, "_detect_is_causal_mask", lambda mask, is_causal=None, size=None: bool(is_causal)
    ):
        yield


@contextlib.contextmanager
def _named_keywords(module: torch.nn.Module, kwargs: dict[str, Any]) -> Iterator[None]:
    """Let the signature of a ``forward(self, x, **k)`` name the given keywords.

    With dynamic shapes, torch.export counts arguments that go into ``**k`` twice, and then finds a mismatch.
    """
    forward = module.forward
    known = inspect.signature(forward).parameters
    given = [p for p in known.values() if p.kind is not p.VAR_KEYWORD]
    named = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in kwargs if n not in {p.name for p in given}]
    if len(given) == len(known) or not named:
        yield
        return

    def with_names(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    with_names.__signature__ = inspect.Signature([*given, *named])  # type: ignore[attr-defined]
    with replaced_forward(module, with_names):
        yield
