"""The front as recipe files that ``fxopt build`` builds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from fxopt.automl.goals import Goals
from fxopt.automl.report import Answer
from fxopt.driver.recipe import Recipe


def write_front(
    folder: Path, answers: Sequence[Answer], recipe: Recipe, goals: Goals, original: dict[str, float]
) -> None:
    """Write each answer as its ``recipe`` file below ``folder``; files of an earlier front go."""
    shutil.rmtree(folder / "front", ignore_errors=True)
    (folder / "front").mkdir(parents=True)
    for answer in answers:
        (folder / answer.recipe).write_text(recipe_text(answer, recipe, goals, original))


def recipe_text(answer: Answer, recipe: Recipe, goals: Goals, original: dict[str, float]) -> str:
    """A recipe file with the measured figures as comments, and the limits of the search as its budget."""
    lines = [f"# {what} {value:.6g}" for what, value in answer.figures.items()]
    if answer.test_drop is not None:
        lines.append(f"# metric_drop on test data {answer.test_drop:.6g}")
    lines += [f"model    = {json.dumps(_found(recipe.model))}", "passes   = ["]
    lines += [f"    {json.dumps(text)}," for text in answer.passes]
    lines += ["]", f"backend  = {json.dumps(answer.backend)}", f"target   = {json.dumps(_found(recipe.target))}"]
    if recipe.calibration:
        lines.append(f"calibration = {json.dumps(_found(recipe.calibration))}")
    if recipe.device != "cpu":
        lines.append(f"device   = {json.dumps(recipe.device)}")
    budget = {what: goals.bound(what, original) for what in ("metric_drop", "latency_ms", "file_bytes", "macs")}
    limits = [f"{what} = {_number(what, bound)}" for what, bound in budget.items() if bound != float("inf")]
    return "\n".join([*lines, *(["", "[budget]", *limits] if limits else [])]) + "\n"


def _found(name: str) -> str:
    """A name, or the absolute path of a file, as the recipe is in another folder."""
    return str(Path(name).resolve()) if name.endswith((".pt2", ".toml", ".npy", ".npz")) else name


def _number(what: str, bound: float) -> str:
    return str(int(bound)) if what in ("file_bytes", "macs") else f"{bound:.6g}"
