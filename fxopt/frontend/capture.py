"""Capture: from an nn.Module to a Program, through ``torch.export``."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from fxopt.errors import CaptureError, FxoptError, PassError, UsageError
from fxopt.frontend.checks import check_inputs, check_python
from fxopt.frontend.eager_check import check_same, run_eager
from fxopt.frontend.export import export_module
from fxopt.frontend.inline_autocast import inline_idle_autocast
from fxopt.frontend.notes import notes_of
from fxopt.frontend.until import stopped_at
from fxopt.ir.alias_analysis import make_functional
from fxopt.ir.dead_code import drop_unused_modules
from fxopt.ir.lazy_module import LazyModule
from fxopt.ir.mapped_weights import MappedFiles
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.numerics.module_state import copied, dense, unchanged


class CaptureWarning(UserWarning):
    """The model was captured, but not with everything that was asked for."""


def capture(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    dynamic: Any = "batch",
    at: str | None = None,
    until: str | Sequence[str] | None = None,
) -> Program:
    """Capture ``module`` as it runs on example inputs, in evaluation mode.

    ``args`` and ``kwargs`` may be any pytree of tensors and numbers. ``dynamic`` says which dims may vary:
    ``"batch"`` the first dim of the tensor inputs (those with the batch size of the first one; failing that the first
    one's alone, which is noted), falling back to fixed shapes with a CaptureWarning where the model does not allow it;
    ``None`` none; anything else goes to ``torch.export`` as its ``dynamic_shapes``, such as
    ``({0: Dim("batch", min=1), 2: Dim("h", min=8), 3: Dim("w", min=8)},)``. A dynamic size may be 1 in the example.
    With ``at="backbone"`` only that submodule is captured, with the inputs it receives when ``module`` runs.

    With ``until="head"`` the program ends where that submodule does, and returns what it returns; of several, a tuple.
    :class:`fxopt.Tail` runs what comes after, :func:`fxopt.capture_split` finds the place.

    Raises CaptureError, with the user's line and the way out, for a model that does not run on the inputs, that
    ``torch.export`` does not take, or that returns something else than tensors; UnknownNameError for ``at`` and ``until``.
    The module does not change, buffers and train mode included; the program has weights and example inputs of its own. Weights
    that are mapped from a file (``safetensors``, ``torch.load(mmap=True)``) are mapped from it again, and take no memory;
    the file must stay as it is.
    torch's fast path for transformers is off: it zeroes padded rows, which the program computes.
    """
    if isinstance(module, torch.export.ExportedProgram):
        raise UsageError(
            "capture takes an nn.Module, and this is exported already",
            way_out="torch.export.save(exported, 'model.pt2') and fxopt.load_program('model.pt2') keep its dynamic dims;\n"
            "  or capture(exported.module(), args)",
        )
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"capture takes an nn.Module, got {type(module).__name__}; wrap a function in a module")
    if not isinstance(args, tuple):
        raise UsageError(f"args must be a tuple of inputs, got {type(args).__name__}; write capture(model, (x,))")
    check_python(module)
    kwargs = dict(kwargs or {})
    notes: tuple[str, ...] = ()
    with unchanged(module), torch.no_grad(), contextlib.ExitStack() as stack:
        if at is not None:
            from fxopt.frontend.submodule_calls import inputs_of

            module, args, kwargs, notes = inputs_of(module, at, args, kwargs)
        args, kwargs = dense(args), dense(kwargs)
        if until is not None:
            stack.enter_context(stopped_at(module, until))
        want = run_eager(module, args, kwargs)
        check_inputs(module, args, kwargs)
        exported, found, warning = export_module(module, args, kwargs, dynamic)
        program = from_exported(exported, args, kwargs, notes=(*notes, *found))
        batched = isinstance(dynamic, str) and bool(program.dims())
        single = batched and _batch_size(program, args, kwargs) == 1
        agrees = single and _agrees(program, args, kwargs, want)
        if single and not agrees:
            warning = f"captured with a fixed batch of 1: {_OTHER_WAY}"
            exported = export_module(module, args, kwargs, None)[0]
            program = from_exported(exported, args, kwargs, notes=(*notes, warning))
        elif batched and not single and not _batch_of_one(module, program, args, kwargs):
            program.ranges = {symbol: (max(2, low), high) for symbol, (low, high) in program.ranges.items()}
            program.notes = (*program.notes, f"captured for batches of 2 or more: {_OTHER_WAY}")
        if not agrees:
            check_same(program, args, kwargs, want)
    if warning:
        warnings.warn(CaptureWarning(warning), stacklevel=2)
    return program


def from_exported(
    exported: torch.export.ExportedProgram,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    notes: tuple[str, ...] = (),
) -> Program:
    """Convert an ExportedProgram to a Program, with weights and example inputs of its own.

    Guards are dropped, idle autocast regions inlined, in-place ops made functional, unused weights removed. Notes of its
    own come after ``notes``.
    Raises CaptureError where the shapes of the graph cannot be derived.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unlifted = exported.module(check_guards=False)
    module = LazyModule(unlifted, unlifted.graph, class_name="Program")
    _own_tensors(module)
    ranges = {}
    for symbol, bounds in exported.range_constraints.items():
        if free_unbacked_symbols(symbol):
            continue  # a data-dependent value, not a size of the inputs
        upper = int(bounds.upper) if bounds.upper.is_finite and bounds.upper < 2**31 else None
        ranges[str(symbol)] = (int(bounds.lower), upper)
    program = Program(module, copied(args), copied(kwargs), ranges=ranges)
    inline_idle_autocast(program.module)
    make_functional(program)
    program.graph.eliminate_dead_code()
    drop_unused_modules(module, set(program.tensors()))
    module.recompile()
    try:
        derive_shapes(program)
    except PassError as error:
        if any(program.find("_add_batch_dim")):
            raise CaptureError(
                f"torch.export leaves a call of torch.vmap half written out, as that of flex_attention: {error}",
                way_out="write the vmapped function for a whole batch; in place of flex_attention, "
                "scaled_dot_product_attention with an attn_mask",
            ) from error
        raise CaptureError(f"the captured graph has no known shapes: {error}") from error
    program.notes = tuple(dict.fromkeys((*notes, *notes_of(program))))
    return program


def _own_tensors(module: torch.nn.Module) -> None:
    """Copy the weights, tied ones once: a model that is trained on must not change its program."""
    copies: dict[int, Any] = {}
    files = MappedFiles()
    for owner in module.modules():
        for store in (owner._parameters, owner._buffers):
            for name, tensor in store.items():
                if tensor is not None and id(tensor) not in copies:
                    copies[id(tensor)] = _copy(tensor, files)
                store[name] = copies.get(id(tensor))


def _copy(tensor: torch.Tensor, files: MappedFiles) -> torch.Tensor:
    if (mapped := files.copy(tensor)) is not None:
        return mapped
    copy = tensor.detach().clone()
    return torch.nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else copy


def _batch_size(program: Program, args: Any, kwargs: Any) -> int:
    leaves = pytree.tree_leaves((args, kwargs))
    sizes = [v.shape[0] for n, v in zip(program.inputs(), leaves, strict=True) if _is_batched(n)]
    return int(sizes[0])


def _is_batched(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() > 0 and isinstance(value.shape[0], torch.SymInt)


_OTHER_WAY = "a batch of 1 takes another way through the model"


def _batch_of_one(module: torch.nn.Module, program: Program, args: Any, kwargs: Any) -> bool:
    """Whether the program is right for a batch of one too: torch traces with two, and does not check that."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    one = [v[:1] if _is_batched(n) else v for n, v in zip(program.inputs(), leaves, strict=True)]
    one_args, one_kwargs = pytree.tree_unflatten(one, spec)
    if any(isinstance(v, torch.Tensor) and v.numel() == 0 for v in one):
        return True
    try:
        want = run_eager(module, one_args, one_kwargs)
    except FxoptError:
        return False
    return _agrees(program, one_args, one_kwargs, want)


def _agrees(program: Program, args: Any, kwargs: Any, want: list[Any]) -> bool:
    try:
        check_same(program, args, kwargs, want)
    except FxoptError:
        return False
    return True
