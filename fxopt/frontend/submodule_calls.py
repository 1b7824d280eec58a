"""The arguments that submodules receive while a module runs, recorded by hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fxopt.errors import CaptureError, UnknownNameError
from fxopt.frontend.checks import check_python
from fxopt.frontend.diagnostics import cannot_run
from fxopt.numerics.module_state import copied, unchanged


@dataclass(frozen=True)
class Call:
    """One call of a submodule: what it received and returned, copied."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def inputs_of(
    module: torch.nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any], tuple[str, ...]]:
    """A submodule with the arguments it receives when ``module`` runs, and a note if it runs several times.

    The arguments are those of the first call. Raises UnknownNameError for a path that the module does not have, and
    CaptureError where the submodule does not run on these inputs, or the module fails.
    """
    known = dict(module.named_modules(remove_duplicate=False))
    if path not in known:
        raise UnknownNameError(f"submodule of {type(module).__name__}", path, [name for name in known if name])
    check_python(known[path])
    calls = record_calls(module, [path], args, kwargs)[path]
    if not calls:
        raise CaptureError(
            f"{path!r} is not called when {type(module).__name__} runs on the example inputs",
            way_out="is it used in training only, or through one of its methods? capture the module around it",
        )
    note = f"{path} runs {len(calls)} times; captured with the inputs of its first call"
    return known[path], calls[0].args, calls[0].kwargs, (note,) if len(calls) > 1 else ()


def record_calls(
    module: torch.nn.Module, paths: Iterable[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, list[Call]]:
    """Run the module once, in evaluation mode, and record every call of the submodules at ``paths``."""
    calls: dict[str, list[Call]] = {path: [] for path in paths}
    torch.manual_seed(0)
    with unchanged(module), torch.no_grad(), contextlib.ExitStack() as stack:
        for path, noted in calls.items():
            stack.enter_context(_hooks(module.get_submodule(path), noted))
        try:
            module(*copied(args), **copied(kwargs))
        except Exception as error:
            raise cannot_run(module, args, kwargs, error) from error
    return calls


@contextlib.contextmanager
def _hooks(part: torch.nn.Module, noted: list[Call]) -> Iterator[None]:
    received: list[Any] = []  # a stack, for a module that calls itself

    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        received.append((copied(args), copied(kwargs)))

    def after(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = received.pop()
        noted.append(Call(given[0], given[1], copied(output)))

    first = part.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    last = part.register_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        first.remove()
        last.remove()
