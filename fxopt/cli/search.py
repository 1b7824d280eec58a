"""The command that searches."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fxopt.cli.app import BUILD, Calibrate, Device, Json, Load, app, load_files
from fxopt.cli.stopped import Stopped
from fxopt.errors import BudgetError, OptionError


@app.command(rich_help_panel=BUILD)
def search(
    source: Annotated[
        str, typer.Argument(help="A model name, module:attribute, .pt2 file, or a recipe to begin with.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the search; the same one goes on.")],
    target: Annotated[str | None, typer.Option("--target", "-t", help="Target name or .toml file.")] = None,
    backend: Annotated[list[str] | None, typer.Option("--backend", "-b", help="Backends to choose from.")] = None,
    drop: Annotated[str | None, typer.Option(help="Largest loss of the metric.")] = None,
    latency: Annotated[str | None, typer.Option(help="Largest latency in ms, or 0.5x.")] = None,
    size: Annotated[str | None, typer.Option(help="Largest file in bytes, or 0.1x.")] = None,
    memory: Annotated[str | None, typer.Option(help="Largest planned memory in bytes, or 0.5x.")] = None,
    macs: Annotated[str | None, typer.Option(help="Most multiply-accumulates, or 0.25x.")] = None,
    params: Annotated[str | None, typer.Option(help="Most parameters, or 0.25x.")] = None,
    noise: Annotated[str | None, typer.Option(help="Largest error of the outputs in dB, such as -30.")] = None,
    minimize: Annotated[
        str, typer.Option(help="Two or three of metric, noise, latency, size, memory, macs, params.")
    ] = ("metric,latency,size"),
    time: Annotated[str | None, typer.Option("--time", help="Time for the search, such as 90s, 20m, 2h.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Recipes to try, instead of a time.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other recipes.")] = 0,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database that several machines work on, e.g. postgresql+psycopg://…")
    ] = None,
    device: Device = None,
    calibrate: Calibrate = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Search for the best recipes of a model on a target, within limits, by measurement."""
    load_files(load)
    from dataclasses import replace

    from rich.console import Console

    from fxopt.automl.report import SearchReport
    from fxopt.automl.search import search as run
    from fxopt.automl.wanted import wanted
    from fxopt.cli.search_view import Live, show_search
    from fxopt.driver.recipe import Recipe, read_recipe

    recipe = (
        read_recipe(source)
        if source.endswith(".toml")
        else Recipe(model=source, backend="fastest" if not backend else backend[0])
    )
    given: dict[str, Any] = {"target": target, "device": device, "calibration": str(calibrate) if calibrate else None}
    recipe = replace(recipe, **{k: v for k, v in given.items() if v is not None})
    limits = {"metric_drop": drop, "latency_ms": latency, "file_bytes": size, "memory_bytes": memory, "macs": macs,
              "params": params, "noise_db": noise}  # fmt: skip
    want = wanted(
        recipe, limits={k: v for k, v in limits.items() if v is not None}, objectives=minimize.split(","),
        seconds=_seconds(time) if time or trials is None else None, trials=trials, seed=seed, backends=backend,
        load=[str(file.resolve()) for file in load or ()],
    )  # fmt: skip
    console = Console(stderr=as_json)
    stopped: Stopped | None = None
    try:
        with Live(console) as live:
            report = run(want, out, storage=storage, progress=live)
    except Stopped as stop:
        stopped, report = stop, SearchReport.read(out)  # which a search that is stopped writes first
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        show_search(report, out, console)
    if stopped is not None:
        print("stopped; the same command goes on", file=sys.stderr)
        raise SystemExit(128 + stopped.number)
    if not report.front:
        over = ", ".join(f"{what} {value:.4g}" for what, value in report.blocked_by.items())
        raise BudgetError(
            f"no recipe keeps all limits: {', '.join(report.limits)}\n"
            + (
                f"  the nearest is {', '.join(report.nearest.passes) or 'the model as it is'}: {over}"
                if report.nearest
                else "  nothing was tried to its end; give it more time"
            )
        )


def _seconds(text: str | None) -> float:
    """``90s``, ``20m``, ``1.5h`` in seconds; 20 minutes if nothing is said. Raises OptionError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text or "20m")
    if found is None or float(found[1]) <= 0:
        raise OptionError(f"--time: takes a time such as 90s, 20m or 2h, got {text!r}")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
