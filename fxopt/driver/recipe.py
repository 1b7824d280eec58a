"""A recipe: a TOML file of values that says what to build. Checked strictly."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fxopt.driver.budget import Budget
from fxopt.driver.recipe_file import BudgetTable, RecipeFile, ReportTable
from fxopt.errors import RecipeError, UnknownNameError
from fxopt.pass_manager.verify import Proof
from fxopt.support.options import check_option, type_hints


@dataclass(frozen=True)
class Recipe:
    """What to build: a model, passes, a backend, a target, limits."""

    model: str
    passes: tuple[str, ...] = ()
    backend: str = "onnx"
    target: str = "host"
    calibration: str | None = None
    """Recorded inputs, .npy or .npz, for a model without data of its own."""
    proof: Proof = "float64"
    """How numbers are compared after each pass: :data:`fxopt.pass_manager.verify.PROOFS`."""
    device: str = "cpu"
    """Where passes train, calibrate and evaluate: auto, cpu, cuda, cuda:1, mps, xpu. It is not the target."""
    budget: Budget = field(default_factory=Budget)
    html: bool = False
    """Whether the build writes ``report.html`` beside its report: ``[report] html = true``."""
    search: dict[str, Any] = field(default_factory=dict)
    """What `fxopt search` may vary, see docs/search.md; a build ignores it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values of a build's settings, without limits that are not set."""
        values = asdict(self)
        del values["search"], values["html"]
        values["passes"] = list(self.passes)
        if self.proof == "float64":
            del values["proof"]
        if self.device == "cpu":
            del values["device"]
        values["budget"] = {k: v for k, v in values["budget"].items() if v is not None}
        return {k: v for k, v in values.items() if v is not None}


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file; paths in it are relative to its folder.

    Raises RecipeError, UnknownNameError with the nearest key, OptionError for a wrong value.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not TOML, not UTF-8, or too long a number
        raise RecipeError(f"{path} is not a TOML recipe: {error}") from None
    recipe = make_recipe(values, str(path))
    beside: dict[str, Any] = {
        key: str(path.parent / value)
        for key in ("model", "target", "calibration")
        if (value := getattr(recipe, key)) and value.endswith((".pt2", ".toml", ".npy", ".npz"))
    }
    return replace(recipe, **beside)


def make_recipe(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """Create a recipe from plain values, checked as a file is."""
    hints = type_hints(RecipeFile) | {"model": str, "budget": dict[str, Any], "report": dict[str, Any]}
    _check_keys(values, list(hints), where)
    if "model" not in values:
        raise RecipeError(f"{where}: the key 'model' is missing, e.g. model = \"digits\"")
    checked = {key: check_option(f"{where}: {key}", hints[key], value) for key, value in values.items()}
    if "passes" in checked:
        passes = checked["passes"]
        checked["passes"] = (passes,) if isinstance(passes, str) else tuple(passes)
    shown = _checked_table(ReportTable, checked.pop("report", {}), where, "report")
    budget = Budget(**_checked_table(BudgetTable, checked.pop("budget", {}), where, "budget"))
    html = bool(shown.get("html", False))
    return Recipe(**checked, budget=budget, html=html)


def _checked_table(table: Any, values: dict[str, Any], where: str, name: str) -> dict[str, Any]:
    hints = type_hints(table)
    _check_keys(values, list(hints), f"{where}: [{name}]")
    return {key: check_option(f"{where}: {name}.{key}", hints[key], value) for key, value in values.items()}


def checked_proof(what: str, value: str) -> Proof:
    """The name of a proof. Raises OptionError for any other text."""
    proof: Proof = check_option(what, Proof, value)
    return proof


def _check_keys(values: dict[str, Any], known: list[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise UnknownNameError(f"key in {where}", key, known)
