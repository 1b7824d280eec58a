"""Numbers and short texts of a page."""

from __future__ import annotations

import json
import math
from typing import Any

from fxopt.driver.page.elements import Cell


def count(value: float | None) -> Cell:
    """A count, as 1.82 G."""
    return _cell(value, "", 1000)


def size(value: float | None) -> Cell:
    """Bytes, as 4.21 MB."""
    return _cell(value, "B", 1000)


def number(value: float | None, digits: int = 4) -> Cell:
    """A number with few digits; infinity as a word."""
    if value is None:
        return Cell("")
    return Cell(f"{value:.{digits}g}" if math.isfinite(value) else ("exact" if value > 0 else "none"), value)


def short(value: float) -> str:
    """A number of a plot: with few digits, and large ones as 1.82 M."""
    return f"{value:.4g}" if abs(value) < 10_000 else count(value).text


def decibels(value: float | None) -> Cell:
    """A signal-to-noise ratio."""
    if value is None:
        return Cell("")
    return Cell(f"{value:.1f} dB", value) if math.isfinite(value) else number(value)


def latency(value: Any) -> Cell:
    """Median and quartiles in ms."""
    if value is None:
        return Cell("")
    return Cell(f"{value.median_ms:.3g} ms ({value.low_ms:.3g}–{value.high_ms:.3g})", value.median_ms)


def change(value: int | None, cell: Any) -> Cell:
    """A change by ``value``, with its sign; nothing where nothing changed."""
    if not value:
        return Cell("")
    shown = cell(abs(value)).text
    return Cell(("+" if value > 0 else "−") + shown, value)


def text(value: object, title: str = "") -> Cell:
    """Text as it is."""
    return Cell("" if value is None else str(value), title=title)


def recipe_text(recipe: dict[str, Any]) -> str:
    """A recipe as the TOML file that builds it."""
    lines = [f"{key} = {_toml(value)}" for key, value in recipe.items() if not isinstance(value, dict)]
    for key, value in recipe.items():
        if isinstance(value, dict) and value:
            lines += ["", f"[{key}]", *(f"{name} = {_toml(item)}" for name, item in value.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return "[\n" + "".join(f"    {_toml(item)},\n" for item in value) + "]"
    if isinstance(value, str):  # JSON's escapes are TOML's, but that TOML has no surrogates and wants DEL escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _cell(value: float | None, unit: str, step: int) -> Cell:
    if value is None:
        return Cell("")
    shown, prefix = float(value), ""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(shown) < step or prefix == "T":
            break
        shown /= step
    digits = f"{shown:.3g}" if prefix else f"{shown:g}"
    return Cell(f"{digits} {prefix}{unit}".strip(), float(value), f"{value:,.0f} {unit}".strip())
