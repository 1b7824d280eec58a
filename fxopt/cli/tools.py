"""Commands on what was built, and for authors: serve, check, bench, bundle, sign, verify, new."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.app import AUTHORS, DEVICES, LOOK, Json, Load, app, completed, from_here, kept_as, load_files, new_app
from fxopt.errors import BudgetError

if TYPE_CHECKING:
    from fxopt.cli.new_files import Kind


@app.command(rich_help_panel=DEVICES)
def serve(
    address: Annotated[
        str, typer.Argument(help="rpc://HOST:PORT to listen at, or tracker://HOST:PORT/KEY to serve behind a tracker.")
    ] = "rpc://127.0.0.1:9090",
    bind: Annotated[
        str | None, typer.Option(help="Listen at this address of the machine, such as 0.0.0.0; wants a token.")
    ] = None,
) -> None:
    """Let this machine be a device, on which others run and time what they build.

    Whoever connects runs code here. By default only this machine can, and others by an SSH tunnel; see docs/trust.md.
    """
    from fxopt.runtime.device import find_device

    find_device(address).serve(bind, functools.partial(print, flush=True))


@app.command(rich_help_panel=AUTHORS)
def check(
    name: Annotated[str, typer.Argument(help="A pass or a backend.", autocompletion=completed("pass", "backend"))],
    load: Load = None,
    as_json: Json = False,
) -> None:
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


@app.command(rich_help_panel=LOOK)
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
    from fxopt.cli.render import bench_table, bench_verdict
    from fxopt.runtime.bench import bench as run_bench

    rows = run_bench(folders, batch=batch, blocks=blocks, on=on)
    if as_json:
        print(json.dumps(rows))
    else:
        from rich.console import Console

        from fxopt.cli.layout import say

        console = Console()
        say(console, bench_verdict(rows))
        console.print(bench_table(rows))


@app.command(rich_help_panel=DEVICES)
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


@app.command(rich_help_panel=DEVICES)
def sign(
    folder: Annotated[Path, typer.Argument(help="Artifact folder.")],
    key: Annotated[Path, typer.Option("--key", "-k", help="Secret key, as `fxopt new key` or minisign made it.")],
) -> None:
    """Sign an artifact, so that others can verify who built it. The password comes from a terminal or standard input."""
    from fxopt.runtime.signing import sign as run_sign

    print(from_here(run_sign(folder, key, lambda: _password(f"Password of {key}: "))))


@app.command(rich_help_panel=DEVICES)
def verify(
    folder: Annotated[Path, typer.Argument(help="Artifact folder.")],
    key: Annotated[Path, typer.Option("--key", "-k", help="Public key of who should have signed it.")],
) -> None:
    """Verify that an artifact was signed by the owner of a key, and that none of its files was changed or added."""
    from fxopt.runtime.signing import verify as run_verify

    print(f"{from_here(folder)} is as the owner of {key} signed it: {run_verify(folder, key)}")


def _password(prompt: str) -> str:
    import getpass
    import sys

    return getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


@new_app.command("key")
def new_key(path: Annotated[Path, typer.Argument(help="File of the secret key; the public one is beside it.")]) -> None:
    """Make a pair of keys to sign artifacts with. The password, which may be empty, is asked for as by `sign`."""
    from fxopt.runtime.signing import make_key

    public = make_key(path, _password(f"Password for {path}, empty for none: "))
    print(f"{path} is secret; give {public} to whom verifies what you build")


Into = Annotated[Path, typer.Option(help="Folder for what is written.")]


@new_app.command("pass")
def new_pass(name: str, into: Into = Path()) -> None:
    """Write a pass and its test to start from, and print the entry-point line."""
    _write("pass", name, into)


@new_app.command("backend")
def new_backend(name: str, into: Into = Path()) -> None:
    """Write a backend for a few ops and its test to start from, and print the entry-point line."""
    _write("backend", name, into)


@new_app.command("workload")
def new_workload(name: str, into: Into = Path()) -> None:
    """Write a workload with data and its test to start from, and print the entry-point line."""
    _write("workload", name, into)


@new_app.command("recipe")
def new_recipe(name: str, into: Into = Path()) -> None:
    """Write a recipe to start from, with what each key is for."""
    _write("recipe", name, into)


def _write(kind: Kind, name: str, into: Path) -> None:
    from fxopt.cli.new_files import write_files

    for line in write_files(kind, name, into):
        print(line)
