"""A recipe: a TOML file of values that says what to build. Checked strictly."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from fxopt.driver.budget import Budget
from fxopt.errors import RecipeError, UnknownNameError
from fxopt.pass_manager.verify import Proof
from fxopt.support.options import check_option


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
    budget: Budget = field(default_factory=Budget)
    html: bool = False
    """Whether the build writes ``report.html`` beside its report: ``[report] html = true``."""
    search: dict[str, Any] = field(default_factory=dict)
    """What `fxopt search` may vary, see docs/search.md; a build has no use for it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what is built, limits that are not set left out."""
        values = asdict(self)
        del values["search"], values["html"]
        values["passes"] = list(self.passes)
        if self.proof == "float64":
            del values["proof"]
        values["budget"] = {k: v for k, v in values["budget"].items() if v is not None}
        return {k: v for k, v in values.items() if v is not None}


_HINTS: dict[str, Any] = {
    "model": str,
    "passes": list[str] | str,
    "backend": str,
    "target": str,
    "calibration": str,
    "proof": Proof,
    "budget": dict[str, Any],
    "search": dict[str, Any],
    "report": dict[str, Any],
}


def _positive(kind: type) -> Any:
    import annotated_types

    return Annotated[kind, annotated_types.Gt(0)]


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file; files that it names are looked for beside it.

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
    """Make a recipe of plain values, checked as a file is."""
    _check_keys(values, list(_HINTS), where)
    if "model" not in values:
        raise RecipeError(f"{where}: the key 'model' is missing, e.g. model = \"digits\"")
    checked = {key: check_option(f"{where}: {key}", _HINTS[key], value) for key, value in values.items()}
    if "passes" in checked:
        passes = checked["passes"]
        checked["passes"] = (passes,) if isinstance(passes, str) else tuple(passes)
    shown = checked.pop("report", {})
    _check_keys(shown, ["html"], f"{where}: [report]")
    html = check_option(f"{where}: report.html", bool, shown.get("html", False))
    limits = checked.pop("budget", {})
    _check_keys(limits, [f.name for f in fields(Budget)], f"{where}: [budget]")
    kinds = {"metric_drop": float, "latency_ms": _positive(float), "file_bytes": _positive(int), "macs": _positive(int)}
    budget = Budget(**{k: check_option(f"{where}: budget.{k}", kinds[k], v) for k, v in limits.items()})
    return Recipe(**checked, budget=budget, html=html)


def checked_proof(what: str, value: str) -> Proof:
    """The name of a proof. Raises OptionError for any other text."""
    proof: Proof = check_option(what, Proof, value)
    return proof


def _check_keys(values: dict[str, Any], known: list[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise UnknownNameError(f"key in {where}", key, known)
