"""The command that builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxopt.cli.app import BUILD, Device, Json, Load, app, completed, from_here, kept_as, load_files
from fxopt.cli.summaries import summaries
from fxopt.cli.telling import Quiet, Verbose, telling
from fxopt.errors import BudgetError

if TYPE_CHECKING:
    from fxopt.driver.report import BuildReport


@app.command(rich_help_panel=BUILD)
def build(
    source: Annotated[
        str,
        typer.Argument(
            help="A recipe (.toml), a model name, module:attribute, or a .pt2 file.",
            autocompletion=completed("workload"),
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the artifact.")],
    passes: Annotated[
        str | None,
        typer.Option("--passes", "-p", help="Passes, instead of the recipe's.", autocompletion=completed("pass")),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", "-b", help="Backend, e.g. onnx(threads=2).", autocompletion=completed("backend")),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="Target name or .toml file; several: a folder each.",
            autocompletion=completed("target"),
        ),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Recorded inputs (.npy, .npz) for a model without data of its own.")
    ] = None,
    tune: Annotated[
        float, typer.Option(min=0, help="Seconds to let the backend choose its options by measurement.")
    ] = 0.0,
    measure: Annotated[bool, typer.Option(help="Time the model before and after, beside eager.")] = True,
    cache: Annotated[
        bool, typer.Option(help="Look up what was built before; `fxopt cache` shows what there is.")
    ] = True,
    proof: Annotated[
        str | None,
        typer.Option(help="How numbers are compared after a pass: float64, own_precision (no float64), or none."),
    ] = None,
    device: Device = None,
    print_after: Annotated[list[str] | None, typer.Option(help="Print the program after this pass, or 'all'.")] = None,
    dump: Annotated[Path | None, typer.Option(help="Save the program after each pass as text here.")] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Append a summary in Markdown to this file, such as $GITHUB_STEP_SUMMARY.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write what was checked here, as JUnit's XML.")] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Build a recipe or a model into an artifact folder with a report."""
    load_files(load)
    from dataclasses import replace

    from rich.console import Console

    from fxopt.cli.layout import say, styled
    from fxopt.driver.recipe import Recipe, checked_proof, read_recipe

    recipe = read_recipe(source) if source.endswith(".toml") else Recipe(model=source)
    given: dict[str, Any] = {"passes": (passes,) if passes is not None else None, "backend": backend}
    given["calibration"] = str(calibrate) if calibrate else None
    given["proof"] = checked_proof("--proof", proof) if proof else None
    given["device"] = device
    given["target"] = target[0] if target else None
    recipe = replace(recipe, **{k: v for k, v in given.items() if v is not None})
    console = Console(stderr=as_json)

    reports: dict[str, BuildReport] = {}

    def show(name: str, report: BuildReport) -> None:
        from fxopt.cli.render import show_report

        reports[name] = report
        if not (as_json or quiet):
            show_report(report, console)
            seconds, folder = sum(report.seconds.values()), from_here(str(report.folder))
            unproved = report.unproved()
            doubt = f" with {len(unproved)} of its steps not proved in float64," if unproved else ""
            done = f" in {seconds:.1f} s; run it with fxopt.load({folder!r})"
            say(console, styled((folder, "bold"), (doubt, "yellow"), done))

    with telling(console, verbose=verbose, quiet=quiet), summaries(reports, summary, junit):
        from fxopt.cli.render import difference_table
        from fxopt.driver.build import build as run_build
        from fxopt.driver.build_targets import build_several
        from fxopt.pass_manager import instruments as w

        extra = [w.print_after(print_after, console)] if print_after else []
        extra += [w.dump(dump)] if dump else []
        options: dict[str, Any] = {
            "measure": measure,
            "tune_seconds": tune,
            "cache": cache,
            "watchers": tuple(extra),
        }
        if target and len(target) > 1:
            build_several(recipe, target, out, show, **options)
        else:
            show("", run_build(recipe, out, **options))
    if as_json:
        plain = {name: report.to_dict() for name, report in reports.items()}
        print(json.dumps(plain.get("", plain)))
    elif len(reports) > 1 and not quiet:
        console.print(difference_table(reports))
    if missed := {name: "; ".join(report.missed) for name, report in reports.items() if report.missed}:
        told = [
            kept_as(f"{name}: {text}".lstrip(": "), str(reports[name].folder), out / name)
            for name, text in missed.items()
        ]
        raise BudgetError("\n".join(told))
