"""The command that finds where an artifact loses accuracy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.app import Json, Load, app, load_files

if TYPE_CHECKING:
    from rich.table import Table

    from fxopt.driver.debug import Debugged, LayerError

_SHOWN = 24
"""Rows of the table."""
_CLIPPED = 1e-3
"""Share of clipped values from which that is worth a line."""


@app.command()
def debug(
    folder: Annotated[Path, typer.Argument(help="Artifact folder, with its report.")],
    examples: Annotated[int, typer.Option(min=1, help="Examples of the validation split to run.")] = 32,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Find the layers in which an artifact loses accuracy: its values on real data against the program in float."""
    load_files(load)
    from fxopt.driver.debug import debug as run

    found = run(folder, examples=examples)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    data = "the example inputs, as there is no data" if found.random else f"{found.examples} examples"
    console.print(escape(f"outputs keep {_db(found.out_db)} of {found.against}, on {data}"), soft_wrap=True)
    console.print(_table(found))
    for line in _words(found):
        console.print(escape(line), soft_wrap=True)


def _table(found: Debugged) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Values, by what their own layer makes of its inputs, the worst first", title_justify="left")
    for column in ("layer", "made", "in", "out", "cosine", "range", "clipped", "error is", "source"):
        table.add_column(
            column, justify="left" if column in ("layer", "error is", "source") else "right", overflow="fold"
        )
    for row in found.layers[:_SHOWN]:
        cells = (
            _name(row), _db(row.made_db), "" if row.in_db is None else _db(row.in_db), _db(row.out_db), f"{row.cosine:.4f}",
            f"{row.low:.3g}…{row.high:.3g}", f"{row.clipped:.2%}" if row.clipped else "",
            "made here" if row.makes else "passed on", row.source,
        )  # fmt: skip
        table.add_row(*map(escape, cells))
    if left := found.layers[_SHOWN:]:
        table.caption = f"and {len(left)} better ones; --json has all"
    return table


def _words(found: Debugged) -> list[str]:
    lines = [f"no counterpart in float: {', '.join(found.unmatched)}"] if found.unmatched else []
    worst = next((row for row in found.layers if row.makes and math.isfinite(row.made_db)), None)
    if worst is None:
        return lines
    lines.append(
        f"most is lost in {_name(worst)}, which keeps {_db(worst.made_db)} of what it should make of its inputs"
    )
    if worst.clipped > _CLIPPED:
        outside = f"{worst.clipped:.1%} of its values do not fit into its integers"
        lines.append(f"  {outside}: calibrate on more data, or by another observer")
    leave = f"quantize(keep_float=('{worst.layer}',)) leaves it in float"
    lines.append(f"  {leave}; fxopt explain quant MODEL measures what that costs")
    return lines


def _name(row: LayerError) -> str:
    return f"{row.module} ({row.layer})" if row.module else row.layer


def _db(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else ("exact" if value > 0 else "nothing")
