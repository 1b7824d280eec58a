"""The command that compares two builds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.app import LOOK, Json, app
from fxopt.errors import BudgetError

if TYPE_CHECKING:
    from fxopt.driver.diff import Difference


@app.command(rich_help_panel=LOOK)
def diff(
    a: Annotated[Path, typer.Argument(help="Folder of a build.")],
    b: Annotated[Path, typer.Argument(help="Folder of the build to hold against it.")],
    as_json: Json = False,
) -> None:
    """Tell what differs between two builds: recipe, versions, target, results, layers. Exit code 1 if a result is worse."""
    from fxopt.driver.diff import diff as run
    from fxopt.driver.report import BuildReport

    found = run(BuildReport.read(a), BuildReport.read(b))
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _show(found.differences)
    if found.worse:
        raise BudgetError("worse than before: " + ", ".join(difference.what for difference in found.worse))


def _show(differences: list[Difference]) -> None:
    from rich.console import Console
    from rich.text import Text

    from fxopt.cli.layout import say
    from fxopt.errors import shown

    console = Console()
    say(console, _verdict(differences))
    kind = None
    for each in differences:
        if each.kind != kind:
            kind = each.kind
            console.print({"asked": "asked for", "reached": "reached", "layer": "layers"}[kind], style="bold")
        ratio = "" if each.ratio is None else f"  ({each.ratio:.3f} times{', worse' if each.worse else ''})"
        say(console, f"{each.what}{ratio}", indent=2, hang=4)
        for mark, value, colour in (("-", each.a, "red"), ("+", each.b, "green")):
            if value is not None:
                say(console, Text(shown(f"{mark} {value}"), style=colour), indent=4, hang=6)


def _verdict(differences: list[Difference]) -> str:
    if not differences:
        return "no difference"
    counts: Counter[str] = Counter(each.kind for each in differences)
    kinds = {"asked": "in what was asked for", "reached": "in results", "layer": "in layers"}
    parts = [f"{counts[kind]} {text}" for kind, text in kinds.items() if counts[kind]]
    worse = sum(each.worse for each in differences)
    return f"differences: {', '.join(parts)}; {worse or 'none'} worse"
