"""Commands that show what there is: passes, backends, models, targets, devices, analyses, blocks; the manual of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxopt.cli.app import NAMES, Json, Load, app, completed, load_files
from fxopt.cli.lines import console_width, flowed, show

if TYPE_CHECKING:
    from fxopt.driver.debugged import Debugged

_PROSE = 120
"""Columns beyond which paragraphs are hard to read."""


@app.command(rich_help_panel=NAMES)
def passes(load: Load = None, as_json: Json = False) -> None:
    """List the passes, one line each."""
    _list("pass", load, as_json)


@app.command(rich_help_panel=NAMES)
def backends(load: Load = None, as_json: Json = False) -> None:
    """List the backends."""
    _list("backend", load, as_json)


@app.command(rich_help_panel=NAMES)
def models(load: Load = None, as_json: Json = False) -> None:
    """List the workloads: models with what is known about them. A zoo takes a name, torchvision:resnet18."""
    _list("workload", load, as_json)


@app.command(rich_help_panel=NAMES)
def targets(load: Load = None, as_json: Json = False) -> None:
    """List the targets with their facts, and which backends can build for them on this machine."""
    load_files(load)
    from fxopt.cli.targets import target_rows

    rows = target_rows()
    if as_json:
        print(json.dumps(rows))
        return
    apart = ("name", "summary", "features", "builds", "cannot_build")
    for row in rows:
        show(f"{row['name']:<15} {row.get('absent', row.get('summary'))}", hang=16)
        if "absent" in row:
            continue
        show(", ".join(f"{k} {v}" for k, v in row.items() if k not in apart), indent=4, hang=6)
        show(f"features {' '.join(row['features']) or 'none'}", indent=4, hang=6)
        show(f"built here by {', '.join(row['builds']) or 'none'}", indent=4, hang=6)
        for reason, backends in _by_reason(row["cannot_build"]).items():
            show(f"not by {', '.join(backends)}: {reason}", indent=4, hang=6)


def _by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return groups


@app.command(rich_help_panel=NAMES)
def devices(
    address: Annotated[str | None, typer.Argument(help="Address of a device to ask what it is.")] = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """List the kinds of devices, by the scheme of their addresses; or say what the device at an address is."""
    if address is None:
        _list("device", load, as_json)
        return
    load_files(load)
    from fxopt.runtime.device import find_device

    facts = find_device(address).facts()
    if as_json:
        print(json.dumps(facts))
        return
    for key, value in facts.items():
        show(f"{key:<12} {_words(value)}", hang=13)


@app.command(rich_help_panel=NAMES)
def analyses(load: Load = None, as_json: Json = False) -> None:
    """List the analyses: `fxopt explain NAME MODEL` shows what one finds in a model."""
    _list("analysis", load, as_json)


@app.command(rich_help_panel=NAMES)
def blocks(load: Load = None, as_json: Json = False) -> None:
    """List what may stand in the place of a block: the library of `substitute`."""
    _list("block", load, as_json)


@app.command(rich_help_panel=NAMES)
def explain(
    name: Annotated[
        str,
        typer.Argument(
            help="A registered name, or search.",
            autocompletion=completed("pass", "backend", "workload", "target", "analysis", "block"),
        ),
    ],
    model: Annotated[
        str | None, typer.Argument(help="For an analysis: the model to look into. For search: a pass.")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", "-b", help="For an analysis.")] = "onnx",
    target: Annotated[str, typer.Option("--target", "-t", help="For an analysis.")] = "host",
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Show the manual of a pass, a backend or a workload; what an analysis, such as groups or quant, finds in a model.

    `fxopt explain search` shows what a search varies, of all passes or of one.
    """
    load_files(load)
    from fxopt.cli import explain as explaining

    shown: explaining.Shown | Debugged
    if name == "search":
        shown = explaining.search_space(model, backend)
    else:
        shown = explaining.explain(name) if model is None else explaining.analyse(name, model, backend, target)
    if as_json:
        print(json.dumps(shown.to_dict()))
        return
    if not isinstance(shown, explaining.Shown):
        from rich.console import Console

        from fxopt.cli.debug import show_debugged

        show_debugged(shown, Console())
        return
    text = shown.text()
    for line in (
        flowed(text, min(console_width(), _PROSE)) if isinstance(shown, explaining.Manual) else text.split("\n")
    ):
        show(line, hang=len(line) - len(line.lstrip()) + 4)


def _words(value: Any) -> str:
    """A fact as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


def _list(kind: str, load: list[Path] | None, as_json: bool) -> None:
    load_files(load)
    from fxopt import registry

    rows = list(registry.entries(kind))
    if as_json:
        print(json.dumps([vars(row) for row in rows]))
        return
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        origin = "" if row.origin == "fxopt" else f"  [{row.origin}]"
        show(f"{row.name:<{width}}  {row.summary}{origin}", hang=width + 2)
