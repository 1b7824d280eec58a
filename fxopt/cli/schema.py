"""The command that prints the schemas of files."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from fxopt.cli.app import AUTHORS, Load, app, load_files


@app.command(rich_help_panel=AUTHORS)
def schema(
    of: Annotated[Literal["recipe", "report"], typer.Argument(help="A recipe, or report.json.")] = "recipe",
    load: Load = None,
) -> None:
    """Print the JSON Schema of recipes, with which editors complete and check, or that of report.json."""
    load_files(load)
    from fxopt.driver.schemas import recipe_schema, report_schema

    print(json.dumps(recipe_schema() if of == "recipe" else report_schema(), indent=2))
