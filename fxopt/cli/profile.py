"""The command that tells what each layer takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.app import LOOK, Json, Load, app, load_files

if TYPE_CHECKING:
    from fxopt.cli.layout import Listing
    from fxopt.driver.profile import LayerTime, Profile

_SUM = 0.1
"""Share of the whole that the sum of the kernels may be off by before a word is said about it."""

_SHOWN = 24
"""Rows of the table."""


@app.command(rich_help_panel=LOOK)
def profile(
    folder: Annotated[Path, typer.Argument(help="Artifact folder, with its report.")],
    twin: Annotated[
        Path | None, typer.Option("--float", help="A build of the model in float, to compare layers with.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size of the random inputs.")] = 1,
    on: Annotated[str | None, typer.Option(help="Address of the device to measure on, instead of here.")] = None,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Hold each layer against the backend's best rates, measured now.")
    ] = False,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Tell what each layer of an artifact takes, by its runtime's profiler, with your source lines."""
    load_files(load)
    from fxopt.driver.profile import profile as run

    found = run(folder, twin=twin, batch=batch, on=on, roofline=roofline)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    from rich.console import Console

    from fxopt.cli.layout import say

    console = Console()
    for line in _words(found):
        say(console, line, hang=4)
    console.print(_table(found))


def _table(found: Profile) -> Listing:
    from fxopt.cli.layout import Column, Listing

    numbers = ("ms", "share", *(["float, ms"] if found.twin else []), *(["roof, ms"] if found.roof else []))
    names = ("layer", *numbers, "precision", "kernel", "source")
    columns = [Column(name, right=name in numbers, apart=name == "source") for name in names]
    table = Listing("Layers, the longest first", columns)
    ranked = sorted(found.layers, key=lambda layer: -layer.ms)
    for layer in ranked[:_SHOWN]:
        shown = [(layer.twin_ms, found.twin), (layer.roof_ms, found.roof)]
        beside = ["" if ms is None else f"{ms:.3f}" for ms, there in shown if there]
        kernels = ", ".join(k.split()[0] for k in layer.kernels)
        table.add(
            _name(layer), f"{layer.ms:.3f}", f"{layer.share:.1%}", *beside, layer.precision, kernels, layer.source
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
    where = f"{found.backend}{f' on {found.on}' if found.on else ''}"
    lines = [f"{where}: kernels {found.sum_ms:.3f} ms of {whole:.3f} ms a call ({found.sum_ms / whole:.0%})"]
    if found.sum_ms > (1 + _SUM) * whole:
        lines.append("  the profiler itself slows kernels that are as short as these")
    named = {layer.name: layer for layer in found.layers}
    if found.roof is not None:
        rates = ", ".join(f"{rate / 1e9:.0f} in {name}" for name, rate in found.roof.macs_per_second.items())
        lines.append(
            f"best rates of {where}: {rates} billion multiply-adds a second, {found.roof.bytes_per_second / 1e9:.1f} GB/s"
        )
    for name in found.above_roof:
        layer = named[name]
        lines.append(f"above its roof: {_name(layer)}, {layer.ms:.3g} ms, and {layer.roof_ms:.3g} at the best rates")
    for name in found.slower:
        layer = named[name]
        lines.append(
            f"slower in integers: {_name(layer)}, {layer.ms:.3f} ms, {layer.twin_ms:.3f} in float   {layer.source}; "
            f"quantize(keep_float=('{name}',)) leaves it"
        )
    return lines
