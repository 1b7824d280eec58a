"""The command that shows what builds and searches found: on the console, or as a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.app import LOOK, Json, Load, app, from_here, load_files
from fxopt.errors import UsageError

if TYPE_CHECKING:
    from fxopt.driver.page.elements import Page
    from fxopt.driver.page.layer_table import Measured


@app.command(rich_help_panel=LOOK)
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of builds of one model, or the folder of a search.")],
    html: Annotated[
        Path | None, typer.Option(help="Write a page here: one file, for a browser without network.")
    ] = None,
    timed: Annotated[
        bool, typer.Option("--profile", help="Measure each layer for the page, as `fxopt profile` does.")
    ] = False,
    debugged: Annotated[
        bool, typer.Option("--debug", help="Compare each layer for the page, as `fxopt debug` does.")
    ] = False,
    load: Load = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Show the report of builds, side by side, or of a search: on the console, or as a page with --html."""
    load_files(load)
    if html is not None or show:
        from fxopt.driver.page.write import write_page

        path = html or folders[0].with_name(f"{folders[0].resolve().name}.html")
        bytes_ = write_page(_page(folders, timed, debugged), path)
        print(f"{from_here(path)}, {bytes_ / 1000:,.0f} kB")
        if show:
            import webbrowser

            webbrowser.open(path.resolve().as_uri())
        return
    _print(folders, as_json)


def _is_search(folder: Path) -> bool:
    return (folder / "search.json").is_file()


def _page(folders: list[Path], timed: bool, debugged: bool) -> Page:
    from fxopt.driver.page.build_page import build_page
    from fxopt.driver.report import BuildReport

    if not any(map(_is_search, folders)):
        reports = [BuildReport.read(folder) for folder in folders]
        return build_page(reports, {i: _measured(folder, timed, debugged) for i, folder in enumerate(folders)})
    if len(folders) > 1:
        raise UsageError("a page shows one search, or builds side by side", way_out="make a page for each")
    from fxopt.automl.report import SearchReport
    from fxopt.automl.search_page import search_page

    return search_page(SearchReport.read(folders[0]), folders[0])


def _measured(folder: Path, timed: bool, debugged: bool) -> Measured:
    """What is asked for of each layer."""
    from fxopt.driver.page.layer_table import LayerFacts

    found: dict[str, LayerFacts] = {}
    if timed:
        from fxopt.driver.profile import profile

        for layer in profile(folder).layers:
            found[layer.name] = LayerFacts(ms=layer.ms, kernel=", ".join(k.partition(" ")[0] for k in layer.kernels))
    if debugged:
        from fxopt.driver.debug import debug

        for row in debug(folder, remedies=0).layers:
            found[row.layer] = replace(found.get(row.layer, LayerFacts()), sqnr_db=row.made_db, histogram=row.histogram)
    return found


def _print(folders: list[Path], as_json: bool) -> None:
    from rich.console import Console

    from fxopt.automl.report import SearchReport
    from fxopt.cli.render import difference_table, show_report
    from fxopt.cli.search_view import show_search
    from fxopt.driver.report import BuildReport

    builds = {str(folder): BuildReport.read(folder) for folder in folders if not _is_search(folder)}
    searches = {folder: SearchReport.read(folder) for folder in folders if _is_search(folder)}
    if as_json:
        plain = [report.to_dict() for report in builds.values()] + [search.to_dict() for search in searches.values()]
        print(json.dumps(plain[0] if len(plain) == 1 else plain))
        return
    console = Console()
    for report in builds.values():
        show_report(report, console)
    if len(builds) > 1:
        console.print(difference_table(builds))
    for folder, search in searches.items():
        show_search(search, folder, console)
