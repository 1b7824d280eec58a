"""The command that finds where an artifact loses accuracy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.app import LOOK, Json, Load, app, load_files

if TYPE_CHECKING:
    from rich.console import Console

    from fxopt.cli.layout import Listing
    from fxopt.driver.debugged import Debugged, LayerError

_SHOWN = 24
"""Rows of the table."""
_BARS = 12
"""Of a histogram."""
_CLIPPED = 1e-3
"""Share of clipped values from which that is worth a line."""
_WORTH = 5e-5
"""Share of clipped values that is not 0.00 % in a table."""
_LEGEND = (
    "alone: at the outputs, with the error of this layer only; made: after the layer, for the inputs it had; in, out: of its "
    "inputs and its value, with all that came before"
)


@app.command(rich_help_panel=LOOK)
def debug(
    folder: Annotated[Path, typer.Argument(help="Artifact folder, with its report.")],
    examples: Annotated[int, typer.Option(min=1, help="Examples of the validation split to run.")] = 32,
    remedies: Annotated[
        int, typer.Option(min=0, help="Worst layers to quantize again without, for what that wins.")
    ] = 4,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Find the layers in which an artifact loses accuracy: its values on real data against the program in float."""
    load_files(load)
    from rich.console import Console

    from fxopt.cli.telling import telling
    from fxopt.driver.debug import debug as run

    console = Console(stderr=as_json)
    with telling(console, verbose=False, quiet=False):
        found = run(folder, examples=examples, remedies=remedies)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    show_debugged(found, console)


def show_debugged(found: Debugged, console: Console) -> None:
    """What was found, on a console: the outputs, the worst layer, what would help, then all values."""
    from fxopt.cli.layout import say

    data = "the example inputs, as there is no data" if found.random else f"{found.examples} examples"
    say(console, f"{found.values_of} keeps {_db(found.out_db)} of {found.against}, on {data}")
    for line in _words(found):
        say(console, line, hang=4)
    console.print(_table(found))
    if found.stays:
        say(console, "These stay in float", style="bold")
    for line in found.stays:
        say(console, line, indent=2, hang=4)


def _table(found: Debugged) -> Listing:
    from fxopt.cli.layout import Column, Listing
    from fxopt.support.sparkline import sparkline

    numbers = ("alone", "made", "in", "out", "clipped")
    columns = [
        Column(name, right=name in numbers, apart=name == "source")
        for name in ("layer", *numbers, "histogram", "source")
    ]
    table = Listing("Values in dB, the one whose layer alone costs the outputs most first", columns)
    for row in found.layers[:_SHOWN]:
        table.add(
            _name(row), _figure(row.alone_db), _figure(row.made_db), "" if row.in_db is None else _figure(row.in_db),
            _figure(row.out_db), f"{row.clipped:.2%}" if row.clipped >= _WORTH else "",
            sparkline(row.histogram[1:-1], _BARS).rstrip(), row.source,
        )  # fmt: skip
    left = found.layers[_SHOWN:]
    table.caption = (f"and {len(left)} better ones; --json has all. " if left else "") + _LEGEND
    return table


def _words(found: Debugged) -> list[str]:
    lines = [f"no counterpart in float: {', '.join(found.unmatched)}"] if found.unmatched else []
    worst = next((row for row in found.layers if math.isfinite(row.alone_db)), None)
    if worst is None:
        return lines
    lines.append(
        f"most is lost in {_name(worst)}: its error alone would leave {_db(worst.alone_db)} at the outputs; it keeps "
        f"{_db(worst.made_db)} of what it should make of its inputs"
    )
    if worst.clipped > _CLIPPED:
        outside = f"{worst.clipped:.1%} of its values do not fit into its integers"
        lines.append(f"  {outside}: calibrate on more data, or by another observer")
    for remedy in found.remedies:
        gain = f"{_db(remedy.after_db)} of the outputs instead of {_db(remedy.before_db)}"
        cost = f"{remedy.macs_share:.1%} of the MACs in float"
        if remedy.slower is not None:
            cost += f" and {remedy.slower - 1:+.1%} latency"
        lines.append(f"  {remedy.option} keeps {gain}, with {cost}")
    return lines


def _name(row: LayerError) -> str:
    return f"{row.module} ({row.layer})" if row.module else row.layer


def _db(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else _figure(value)


def _figure(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else ("exact" if value > 0 else "nothing")
