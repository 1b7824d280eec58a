"""One recipe for several targets: a folder each, and the differences between them, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fxopt.driver.build import build
from fxopt.driver.recipe import Recipe
from fxopt.driver.report import BuildReport
from fxopt.errors import FxoptError, UsageError
from fxopt.target import find_target


def build_several(
    recipe: Recipe, targets: Sequence[str], out: Path, done: Callable[[str, BuildReport], None], **options: Any
) -> dict[str, BuildReport]:
    """Build a recipe for each target into ``out/NAME``; ``done`` is called with each report. Options are those of ``build``.

    If one fails, the others are still built. Raises UsageError for a name twice, and in the end the first failure, with all
    reasons.
    """
    names = [find_target(target).name for target in targets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two targets have the name {twice!r}: their artifacts would have one folder")
    reports: dict[str, BuildReport] = {}
    failed: list[tuple[str, FxoptError]] = []
    for name, target in zip(names, targets, strict=True):
        try:
            reports[name] = build(replace(recipe, target=target), out / name, **options)
        except FxoptError as error:
            failed.append((name, error))
            continue
        done(name, reports[name])
    if failed:
        text = "\n".join(f"for {name}: {error}" for name, error in failed)
        raise type(failed[0][1])(f"built for {', '.join(reports) or 'no target'}\n{text}")
    return reports
