"""The command that tells what each layer takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.app import Json, Load, app, load_files

if TYPE_CHECKING:
    from rich.table import Table

    from fxopt.driver.profile import LayerTime, Profile

_SUM = 0.1
"""Share of the whole that the sum of the kernels may be off by before a word is said about it."""

_SHOWN = 24
"""Rows of the table."""


@app.command()
def profile(
    folder: Annotated[Path, typer.Argument(help="Artifact folder, with its report.")],
    twin: Annotated[
        Path | None, typer.Option("--float", help="A build of the model in float, to compare layers with.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size of the random inputs.")] = 1,
    on: Annotated[str | None, typer.Option(help="Address of the device to measure on, instead of here.")] = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Tell what each layer of an artifact takes, by its runtime's profiler, with your source lines."""
    load_files(load)
    from fxopt.driver.profile import profile as run

    found = run(folder, twin=twin, batch=batch, on=on)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    console.print(_table(found))
    for line in _words(found):
        console.print(escape(line), soft_wrap=True)


def _table(found: Profile) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{found.backend}{f' on {found.on}' if found.on else ''}", title_justify="left")
    columns = ["layer", "ms", "share", *(["float, ms"] if found.twin else []), "precision", "kernel", "source"]
    for column in columns:
        table.add_column(column, justify="right" if column in ("ms", "share", "float, ms") else "left", overflow="fold")
    ranked = sorted(found.layers, key=lambda layer: -layer.ms)
    for layer in ranked[:_SHOWN]:
        beside = [f"{layer.twin_ms:.3f}" if layer.twin_ms else ""] if found.twin else []
        cells = [_name(layer), f"{layer.ms:.3f}", f"{layer.share:.1%}", *beside]
        table.add_row(
            *map(escape, [*cells, layer.precision, ", ".join(k.split()[0] for k in layer.kernels), layer.source])
        )
    if left := ranked[_SHOWN:]:
        table.caption = f"and {len(left)} shorter ones, {sum(layer.ms for layer in left):.3f} ms; --json has all"
    return table


def _name(layer: LayerTime) -> str:
    if not layer.name:
        return f"({layer.kernels[0].partition(' ')[2]})"
    return f"{layer.module} ({layer.name})" if layer.module else layer.name


def _words(found: Profile) -> list[str]:
    whole = found.whole.median_ms
    lines = [f"kernels {found.sum_ms:.3f} ms of {whole:.3f} ms a call ({found.sum_ms / whole:.0%})"]
    if found.sum_ms > (1 + _SUM) * whole:
        lines.append("  the profiler itself slows kernels that are as short as these")
    named = {layer.name: layer for layer in found.layers}
    for name in found.slower:
        layer = named[name]
        lines.append(
            f"slower in integers: {_name(layer)}, {layer.ms:.3f} ms, {layer.twin_ms:.3f} in float   {layer.source}; "
            f"quantize(keep_float=('{name}',)) leaves it"
        )
    return lines
