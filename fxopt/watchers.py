"""Watchers a user turns on: print or save the program after a pass. Verification is in :mod:`fxopt.verify`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from fxopt import registry
from fxopt.errors import UnknownNameError, UsageError
from fxopt.pipeline import Step, StepResult, Watcher
from fxopt.program import Program


def print_after(names: list[str], console: Console) -> Watcher:
    """Print the program as text after the passes of these names; ``all`` stands for every pass.

    Raises UnknownNameError for a name that is no pass.
    """
    known = registry.names("pass")
    for name in names:
        if name not in ("all", *known):
            raise UnknownNameError("pass", name, [*known, "all"])

    @contextlib.contextmanager
    def watch(step: Step, program: Program, result: StepResult) -> Iterator[None]:
        yield
        if "all" in names or step.pass_.name in names:
            console.print(f"-- after {step}", markup=False)
            console.print(program.text(source=True), markup=False, highlight=False, soft_wrap=True)

    return watch


def dump(folder: Path) -> Watcher:
    """Save the program before the first pass and after each as numbered text files in ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None

    def write(number: int, name: str, program: Program) -> None:
        (folder / f"{number:02}_{name}.txt").write_text(program.text(source=True) + "\n")

    @contextlib.contextmanager
    def watch(step: Step, program: Program, result: StepResult) -> Iterator[None]:
        if step.index == 1:
            write(0, "captured", program)
        yield
        write(step.index, step.pass_.name, program)

    return watch
