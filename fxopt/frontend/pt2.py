"""Programs as ``.pt2`` files: re-export of an edited graph, saving, and loading that executes no code of the file.

A ``.pt2`` file is ``torch.export``'s own archive, so torch reads it without fxopt. History and notes are in its extra
files. :mod:`fxopt.frontend.pt2_safety` looks through the archive before torch may read it.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import CaptureError, RecipeError, UsageError, last_line, text_of
from fxopt.frontend.dynamic_shapes import Dims, dynamic_shapes
from fxopt.frontend.pt2_safety import check_archive
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.ir.recurrent_shapes import recurrent_in_one_step
from fxopt.support.resources import resource_error
from fxopt.support.scratch import write_whole

_EXTRA = "fxopt.json"
_PLAIN = (tuple, list, dict)


def export_program(program: Program, *, largest: bool = False) -> torch.export.ExportedProgram:
    """Export the graph as it stands now, with its weights' names and its dynamic dims.

    Each dynamic size becomes one ``torch.export.Dim`` named as :meth:`Program.dims` names it (the first one ``batch``)
    with the bounds of ``program.ranges``; a size derived from others is left for torch to infer. Example inputs whose
    dynamic dims have size 1 are repeated to 2, as torch takes 1 for a constant. With ``largest`` they have the upper bounds
    of their sizes, where there are some: kernels that torch chooses by size narrow a range, never below the example.

    Raises CaptureError where the graph cannot be exported, or a dynamic dim would become fixed.
    """
    _know_quantized_ops()
    sizes = _wide_sizes(program, largest)
    leaves = [_resize(leaf, want) for leaf, want in zip(program.example_leaves(), sizes, strict=True)]
    args, kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((program.args, program.kwargs)))
    try:
        exported = _export(program, args, kwargs, named=True)
    except Exception as error:
        if not program.ranges:
            raise _cannot_export(program, error) from error
        try:  # a graph may require more of a size than a named Dim can express, such as a multiple of 8
            exported = _export(program, args, kwargs, named=False)
        except Exception:
            raise _cannot_export(program, error) from error
    _check_dynamic(program, exported)
    return exported


def save_program(program: Program, path: str | Path) -> None:
    """Save a program as a ``.pt2`` file: written beside, then renamed, so that no half-written file is left.

    Raises UsageError for a name that does not end in ``.pt2`` or a folder that cannot be written, and CaptureError
    where the graph cannot be exported, or its inputs or outputs are of a class that has no name in a file.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise UsageError(f"{path}: a program is saved as a .pt2 file; write {path.with_suffix('.pt2')}")
    for what, spec in (("inputs", program.in_spec), ("outputs", program.out_spec)):
        if spec is not None:
            _check_classes(what, spec)
    exported = export_program(program)
    structure = (program.args, program.kwargs)
    if not _is_plain(structure):  # classes would be pickled: keep the leaves, the structure is in the file's spec
        structure = (tuple(program.example_leaves()), {})
    exported._example_inputs = structure
    extra = {"history": program.history, "notes": program.notes}
    for node in exported.graph.nodes:  # it has addresses of graphs, which differ from run to run
        node.meta.pop("from_node", None)
    # torch's own writer ends the whole process where the disk is full, so the archive is made in memory
    archive = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported, archive, extra_files={_EXTRA: json.dumps(extra)})
    try:
        write_whole(path, archive.getbuffer())
    except OSError as error:
        if full := resource_error(error, path.parent):
            raise full from error
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def load_program(path: str | Path) -> Program:
    """Load a ``.pt2`` file that :func:`save_program` or ``torch.export.save`` wrote. No code of the file is executed.

    Batch norms and dropouts of a model that was exported in training mode stay as they are, and are named in the
    program's notes. Raises RecipeError for a file that is missing, truncated, of another format, or that holds pickled
    objects.
    """
    from fxopt.frontend.capture import from_exported

    path = Path(path)
    check_archive(path)
    _know_quantized_ops()
    extra = {_EXTRA: ""}
    try:
        with warnings.catch_warnings(), _logged() as reasons:
            warnings.simplefilter("ignore")
            exported = torch.export.load(path, extra_files=extra)
        known = json.loads(extra[_EXTRA] or "{}")
        if not exported.example_inputs:
            raise ValueError("it holds no example inputs; export it with torch.export.export(model, args)")
        leaves = pytree.tree_leaves(exported.example_inputs)
        args, kwargs = pytree.tree_unflatten(leaves, exported.call_spec.in_spec)
        exported._example_inputs = None
    except Exception as error:
        reason = reasons[-1] if reasons else f"{type(error).__name__}: {text_of(error).strip().partition(chr(10))[0]}"
        raise RecipeError(
            f"{path}: torch {torch.__version__} cannot read this archive: {reason}",
            way_out=(
                "was it saved by another version of torch, or does it use ops or classes of a package that is "
                "not imported?"
            ),
        ) from error
    program = from_exported(exported, args, kwargs, notes=tuple(known.get("notes", ())))
    program.history = tuple(known.get("history", ()))
    return program


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    """Why torch cannot load a file: the last lines of the traces that it logs instead of raising."""
    reasons: list[str] = []

    class Keep(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.exc_info and record.exc_info[1]:
                reasons.append(f"{type(record.exc_info[1]).__name__}: {last_line(record.exc_info[1])}")
            return False

    logger, keep = logging.getLogger("torch.export"), Keep()
    logger.addFilter(keep)
    try:
        yield reasons
    finally:
        logger.removeFilter(keep)


def _check_classes(what: str, spec: pytree.TreeSpec) -> None:
    """Raise CaptureError for a class that torch cannot write into a file's tree structure, the innermost one."""
    for child in spec.children():
        _check_classes(what, child)
    try:
        pytree.treespec_dumps(spec)
    except NotImplementedError as error:
        is_tuple = spec.type is collections.namedtuple
        name = (spec.context if is_tuple else spec.type).__name__
        named = f"torch.export.register_dataclass({name}, serialized_type_name={f'my_package.{name}'!r})"
        raise CaptureError(
            f"the {what} hold a {name}, which has no name to be saved under",
            way_out=(
                f"{('' if is_tuple else f'register it with a name, {named}, or ')}wrap the model in a module "
                "that has a tuple or a dict there"
            ),
        ) from error


def _know_quantized_ops() -> None:
    """Register ``quantized_decomposed``: torch loads these ops only when the module is imported."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")


def _export(program: Program, args: Any, kwargs: Any, *, named: bool) -> torch.export.ExportedProgram:
    shapes = _dynamic_shapes(program, args, kwargs, named=named)
    with recurrent_in_one_step(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(program.module, args, kwargs, dynamic_shapes=shapes)


def _dynamic_shapes(program: Program, args: Any, kwargs: Any, *, named: bool) -> Any:
    names = program.dims()
    made: dict[str, Any] = {}

    def dim(size: Any) -> Any:
        if not isinstance(size, torch.SymInt):
            return None
        symbol = str(size)
        if not named or symbol not in names:
            return torch.export.Dim.AUTO
        low, high = program.ranges.get(symbol, (0, None))
        return made.setdefault(symbol, torch.export.Dim(names[symbol], min=low, max=high))

    shapes: list[Dims] = []
    for node in program.inputs():
        value = node.meta.get("val")
        dims = {i: dim(s) for i, s in enumerate(value.shape)} if isinstance(value, torch.Tensor) else {}
        shapes.append({i: d for i, d in dims.items() if d is not None} or None)
    return dynamic_shapes(program.module, args, kwargs, shapes)


def _wide_sizes(program: Program, largest: bool) -> list[tuple[int, ...] | None]:
    """Sizes for the example inputs at which every dynamic size is at least 2, or the ``largest`` that has a bound.

    None for an input that is no tensor.
    """
    values: dict[Any, int] = {}
    sizes: list[tuple[Any, ...] | None] = []
    for node in program.inputs():
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            sizes.append(None)
            continue
        shape: list[Any] = list(value.shape)
        sizes.append(tuple(s.node.expr if isinstance(s, torch.SymInt) else int(s) for s in shape))
        for size in (s for s in shape if isinstance(s, torch.SymInt)):
            for symbol in size.node.expr.free_symbols:
                low, high = program.ranges.get(str(symbol), (0, None))
                values[symbol] = max(int(size.node.shape_env.backed_var_to_val[symbol]), 2, low)
                if largest and high is not None:
                    values[symbol] = high
    return [
        None if s is None else tuple(int(n if isinstance(n, int) else n.xreplace(values)) for n in s) for s in sizes
    ]


def _resize(leaf: Any, want: tuple[int, ...] | None) -> Any:
    if want is None or tuple(leaf.shape) == want:
        return leaf
    for dim, (have, size) in enumerate(zip(leaf.shape, want, strict=True)):
        if have == 0:
            return torch.zeros(want, dtype=leaf.dtype)
        if have != size:
            leaf = leaf.index_select(dim, torch.arange(size) % have)
    return leaf


def _check_dynamic(program: Program, exported: torch.export.ExportedProgram) -> None:
    names = set(exported.graph_signature.user_inputs)
    after = [n.meta.get("val") for n in exported.graph.nodes if n.op == "placeholder" and n.name in names]
    before = [n for n in program.inputs() if isinstance(n.meta.get("val"), torch.Tensor)]
    for node, value in zip(before, [v for v in after if isinstance(v, torch.Tensor)], strict=True):
        for dim, (old, new) in enumerate(zip(node.meta["val"].shape, value.shape, strict=True)):
            if not str(old).isdigit() and str(new).isdigit():  # a fixed size may be a SymInt still
                raise CaptureError(
                    f"exported again, dim {dim} of input {node.target!r} is fixed to {new}, and was dynamic\n    "
                    f"{type_text(node.meta['val'], program.dims())} became {type_text(value)}",
                    way_out=(
                        "a pass wrote a size into the graph as a number; capture with dynamic=None to fix the "
                        "shapes on purpose"
                    ),
                )


def _cannot_export(program: Program, error: Exception) -> CaptureError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    fixed = next((line.lstrip("- ") for line in lines if "specialized it to be a constant" in line), "")
    reason = fixed or (f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
    way = "a pass wrote a size into the graph as a number; capture with dynamic=None to fix the shapes on purpose"
    return CaptureError(
        f"the graph cannot be exported as {program.signature()}\n    {reason}" + (f"\n  {way}" if fixed else "")
    )


def _is_plain(value: Any) -> bool:
    """Whether a tree consists of tuples, lists, dicts, tensors and plain values, which load without pickled classes."""
    if type(value) in _PLAIN:
        return all(_is_plain(v) for v in (value.values() if isinstance(value, dict) else value))
    return value is None or type(value) in (torch.Tensor, torch.nn.Parameter, int, float, bool, str)
