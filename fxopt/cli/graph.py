"""The command that draws the graph of a model."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from fxopt.cli.app import LOOK, Load, app, from_here, load_files
from fxopt.errors import UsageError, last_line


@app.command(rich_help_panel=LOOK)
def graph(
    model: Annotated[str, typer.Argument(help="A model name, module:attribute, or a .pt2 file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .dot, or .svg, .pdf, .png with Graphviz.")],
    passes: Annotated[str, typer.Option("--passes", "-p", help="Passes to run before.")] = "",
    load: Load = None,
) -> None:
    """Draw the graph of a model, as it is captured or as passes leave it."""
    load_files(load)
    kind = out.suffix.removeprefix(".")
    if kind not in ("dot", "svg", "pdf", "png"):
        raise UsageError(f"{out}: a graph is written as .dot, .svg, .pdf or .png", way_out=f"-o {out.stem}.dot")
    if kind != "dot" and shutil.which("dot") is None:
        raise UsageError(
            f"{out} is drawn by Graphviz, and its program dot is not installed",
            way_out=f"install the package graphviz of your system, or write -o {out.with_suffix('.dot')}",
        )
    from fxopt.pass_manager.pipeline import Pipeline
    from fxopt.workload import find_workload

    workload = find_workload(model)
    text = Pipeline.parse(passes).run(workload.capture(), workload=workload).program.to_dot()
    try:
        if kind == "dot":
            out.write_text(text, encoding="utf-8")
        else:
            command = ["dot", f"-T{kind}", "-o", str(out)]
            subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or error}") from error
    except subprocess.CalledProcessError as error:
        raise UsageError(f"Graphviz cannot draw {out}: {last_line(RuntimeError(error.stderr.decode()))}") from error
    print(from_here(out))
