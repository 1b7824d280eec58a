"""Partial capture: one submodule, or the largest submodules that can be captured, and back into the model.

A model whose post-processing branches on values (a detector's) cannot become one Program, but its backbone and heads can.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import CaptureError, FxoptError, UnknownNameError, UsageError
from fxopt.frontend.capture import CaptureWarning, capture
from fxopt.frontend.checks import check_outputs, check_python
from fxopt.frontend.eager_check import close, run_program
from fxopt.frontend.submodule_calls import Call, record_calls
from fxopt.ir.input_check import misfit
from fxopt.ir.program import Program
from fxopt.numerics.module_state import evaluate


@dataclass(frozen=True)
class Parts:
    """The largest submodules that could be captured, by path, and why the modules around them could not."""

    programs: dict[str, Program]
    failures: dict[str, str]
    coverage: float
    """Share of the model's parameters that the programs hold, 0 to 1."""

    def install(self, module: torch.nn.Module, programs: Mapping[str, Program] | None = None) -> torch.nn.Module:
        """Return a copy of the model, in evaluation mode, in which the parts run as programs.

        ``programs`` are rewritten ones to take instead of those captured, by path. Raises UnknownNameError for a path
        that is not a part, and UsageError for a program of other inputs or outputs, or a model without the part.
        """
        chosen = dict(self.programs)
        for path, program in (programs or {}).items():
            if path not in chosen:
                raise UnknownNameError("captured part", path, chosen)
            was, now = chosen[path], program
            if (was.in_spec, was.out_spec, was.signature()) != (now.in_spec, now.out_spec, now.signature()):
                raise UsageError(
                    f"the program for {path!r} has another interface",
                    expected=was.signature(),
                    got=now.signature(),
                )
            chosen[path] = program
        known = dict(module.named_modules(remove_duplicate=False))
        memo: dict[int, Any] = {}
        for path, program in chosen.items():
            if path not in known:
                raise UsageError(
                    f"{type(module).__name__} has no submodule {path!r}: is it the model that was captured?"
                )
            memo[id(known[path])] = SubmoduleProgram(path, program, known[path])
        return memo[id(module)] if id(module) in memo else evaluate(copy.deepcopy(module, memo))


class SubmoduleProgram(torch.nn.Module):
    """A program in place of a submodule.

    All else that the model uses of the submodule (a plain attribute, a weight, another method) is that of a copy. So any
    submodule can be a part, whatever the model does with it, at the price of the copy's memory: what a model uses shows
    only on the path of the example inputs. The copy has the captured weights, not those that passes changed, and state
    that a method changes is the copy's own.
    """

    def __init__(self, path: str, program: Program, original: torch.nn.Module) -> None:
        super().__init__()
        self._path = path
        self._program = program
        self._original = (evaluate(copy.deepcopy(original)),)  # in a tuple, so that it is no submodule
        self.graph_module = program.module
        self.eval()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_original" not in self.__dict__:  # while a copy is being made
                raise
            return getattr(self._original[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program. Raises UsageError for inputs of other shapes than it was captured for."""
        try:
            return self._program(*args, **kwargs)
        except UsageError as error:
            raise UsageError(f"the captured part {self._path!r}: {error}") from None


def capture_parts(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, *, dynamic: Any = "batch"
) -> Parts:
    """Capture the largest submodules that can be, from the top down, with the inputs they receive from ``module``.

    Where a module cannot be captured, its children are tried. A module that runs several times must give the right
    answer for every call, or its children are tried too. Modules without parameters are left as they are.
    Raises CaptureError where the model itself does not run on the inputs.
    """
    check_python(module)
    kwargs = dict(kwargs or {})
    programs: dict[str, Program] = {}
    failures: dict[str, str] = {}
    covered: set[int] = set()
    tried: set[int] = set()
    level = [""]
    while level:
        recorded = record_calls(module, level, args, kwargs)
        below: list[str] = []
        for path in level:
            part = module.get_submodule(path)
            if id(part) in tried:
                continue
            tried.add(id(part))
            try:
                programs[path] = _capture_part(part, recorded.pop(path), dynamic)
                covered |= {id(p) for p in part.parameters()}
            except FxoptError as error:
                failures[path] = error.what  # the way out of a whole model that is captured in parts is this
                below += _children(path, part)
        level = below
    sizes = {id(p): p.numel() for p in module.parameters()}
    share = sum(sizes[i] for i in covered) / max(1, sum(sizes.values()))
    return Parts(programs, failures, share)


def _children(path: str, part: torch.nn.Module) -> list[str]:
    return [
        f"{path}.{name}" if path else name
        for name, child in part.named_children()
        if not isinstance(child, torch.jit.ScriptModule) and next(child.parameters(), None) is not None
    ]


def _capture_part(part: torch.nn.Module, calls: list[Call], dynamic: Any) -> Program:
    if not calls:
        raise CaptureError("it is not called on the example inputs")
    check_outputs(part, calls[0].output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        program = capture(part, calls[0].args, calls[0].kwargs, dynamic=dynamic)
    for number, call in enumerate(calls):
        where = f"call {number + 1} of {len(calls)}"
        if problem := misfit(program, call.args, call.kwargs):
            raise CaptureError(f"{where} does not fit the program of the first: {problem}")
        got = run_program(program, call.args, call.kwargs)
        want, spec = pytree.tree_flatten(call.output)
        if pytree.tree_structure(got) != spec or not all(map(close, want, pytree.tree_leaves(got))):
            raise CaptureError(f"{where} gives other outputs as a program: does it keep state between calls?")
    return program


# ---- recording -----------------------------------------------------------------------------------------------------
