"""The typer application, and what its commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

BUILD, LOOK, NAMES = "Build", "Look at what was built", "What there is"
DEVICES, AUTHORS = "Devices and delivery", "For authors and when something is missing"


class Sections(TyperGroup):
    """The commands by section, each with the whole first line of its docstring."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel, in the order in which the panels are named here."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in (BUILD, LOOK, NAMES, DEVICES, AUTHORS)}
        for name in self.list_commands(ctx):
            if (command := self.get_command(ctx, name)) is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                said = (command.help or "").partition("\n\n")[0].replace("\n", " ")
                sections.setdefault(panel if isinstance(panel, str) else AUTHORS, []).append((name, said))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=12)


app = typer.Typer(
    name="fxopt",
    cls=Sections,
    help="Capture a PyTorch model, rewrite it by proved passes, lower it to what runs fast on a device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 160},
)
new_app = typer.Typer(help="Start a file of your own.", no_args_is_help=True)
app.add_typer(new_app, name="new", rich_help_panel=AUTHORS)


def completed(*kinds: str) -> Callable[[str], list[tuple[str, str]]]:
    """What a shell completes an argument with: registered names of these kinds, with their first lines."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        from fxopt import registry

        found = [entry for kind in kinds for entry in registry.entries(kind) if entry.name.startswith(incomplete)]
        return [(entry.name, entry.summary) for entry in found]

    return complete


Load = Annotated[list[Path] | None, typer.Option("--load", help="Python file with passes, backends or workloads.")]
Calibrate = Annotated[Path | None, typer.Option(help="Recorded inputs (.npy, .npz) for a model without data.")]
Device = Annotated[
    str | None, typer.Option(help="Where passes train, calibrate and evaluate: auto, cpu, cuda, cuda:1, mps, xpu.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Print the version."""
    if show:
        import fxopt

        print(fxopt.__version__)


def load_files(files: list[Path] | None) -> None:
    """Register what the files of ``--load`` define."""
    if files:
        from fxopt.driver.load_file import load_file

        for file in files:
            load_file(file)


def kept_as(text: str, place: str | Path, asked: Path) -> str:
    """What was missed, and where what was made is, as it is not under the name that was asked for."""
    return f"{text}\n  kept as {from_here(place)}; nothing was changed at {asked}"


def from_here(place: str | Path) -> str:
    """A path, from the current folder on where it is below it."""
    here, place = Path.cwd(), Path(place).absolute()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)
