"""Commands on what was built, and for authors: serve, check, bench, bundle, new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fxopt.cli.app import Json, Load, app, kept_as, load_files, new_app
from fxopt.errors import BudgetError


@app.command()
def serve(
    address: Annotated[
        str, typer.Argument(help="rpc://HOST:PORT to listen at, or tracker://HOST:PORT/KEY to serve behind a tracker.")
    ] = "rpc://0.0.0.0:9090",
) -> None:
    """Let this machine be a device, on which other machines run and time what they build; for networks you trust."""
    from fxopt.runtime.device import find_device

    find_device(address).serve(print)


@app.command()
def check(name: str, load: Load = None, as_json: Json = False) -> None:
    """Run the contract tests of a pass or a backend on small models."""
    load_files(load)
    from fxopt import registry
    from fxopt.testing import run_checks

    kind = "backend" if name in registry.names("backend") else "pass"
    results = run_checks(registry.get(kind, name))
    if as_json:
        print(json.dumps([vars(r) for r in results]))
    else:
        for result in results:
            print(f"{'ok    ' if result.passed else 'FAILED'} {result.name}  ({result.seconds:.1f} s)")
            if not result.passed:
                print("    " + str(result.detail).replace("\n", "\n    "))
    failed = [r.name for r in results if not r.passed]
    if failed:
        raise BudgetError(f"{name}: {len(failed)} of {len(results)} checks failed: {', '.join(failed)}")


@app.command()
def bench(
    folders: Annotated[list[Path], typer.Argument(help="Artifact folders, timed side by side.")],
    batch: Annotated[int, typer.Option(min=1, help="Batch size of the random inputs.")] = 1,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of calls for each artifact.")] = 11,
    on: Annotated[str | None, typer.Option(help="Address of the device to measure on, instead of here.")] = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Compare artifacts: latency interleaved in one run, size, peak memory, and the metric where there is data."""
    load_files(load)
    from fxopt.cli.render import bench_table
    from fxopt.runtime.bench import bench as run_bench

    rows = run_bench(folders, batch=batch, blocks=blocks, on=on)
    if as_json:
        print(json.dumps(rows))
    else:
        from rich.console import Console

        Console().print(bench_table(rows))


@app.command()
def bundle(
    folder: Annotated[Path, typer.Argument(help="Artifact folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .tar.gz.")],
    wheels: Annotated[
        Path | None, typer.Option(help="Folder with wheels of the runtime, instead of those installed or downloaded.")
    ] = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Pack an artifact with its runtime and a program that runs it, for a device without Python."""
    load_files(load)
    from fxopt.bundle.bundling import bundle as run_bundle

    made = run_bundle(folder, out, wheels)
    print(json.dumps(vars(made), default=str) if as_json else made.text())
    if made.missed:
        raise BudgetError(kept_as(made.missed, made.path, out))


@new_app.command("pass")
def new_pass(
    name: str,
    into: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(),
) -> None:
    """Write a pass and its test to start from, and print the entry-point line."""
    from fxopt.cli.new_pass import write_pass

    for line in write_pass(name, into):
        print(line)
