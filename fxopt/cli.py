"""The command line. Exit codes: 0 done, 1 a budget or check missed, 2 usage, 3 a pass or proof failed, 4 a backend failed,
5 a crash; 128 and the signal's number when stopped.

Each command imports what it needs when it runs, so that listing and help stay quick.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from fxopt.errors import BudgetError, FxoptError

app = typer.Typer(
    name="fxopt",
    help="Capture a PyTorch model, rewrite it by proved passes, lower it to what runs fast on a device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
new_app = typer.Typer(help="Start a file of your own.", no_args_is_help=True)
app.add_typer(new_app, name="new")

Load = Annotated[list[Path] | None, typer.Option("--load", help="Python file with passes, backends or workloads.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


class _Stopped(BaseException):
    """A signal asked the process to stop: unwinds like Ctrl-C, so that nothing half-written stays."""


def _stop(number: int, frame: object) -> None:
    raise _Stopped(number)


def main() -> None:
    """Run the command line; an error that fxopt raised on purpose is one message and an exit code, no traceback."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = {number: signal.signal(number, _stop) for name in names if (number := getattr(signal, name, None))}
    try:
        app()
    except FxoptError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except _Stopped as stop:
        print("stopped; nothing was written", file=sys.stderr)
        sys.exit(128 + stop.args[0])
    except Exception:
        traceback.print_exc()
        print(
            "this is a mistake in fxopt or in code that it called, not in the command; see the trace", file=sys.stderr
        )
        sys.exit(5)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Print the version."""
    if show:
        import fxopt

        print(fxopt.__version__)


@app.command()
def build(
    source: Annotated[str, typer.Argument(help="A recipe (.toml), a model name, module:attribute, or a .pt2 file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the artifact.")],
    passes: Annotated[str | None, typer.Option("--passes", "-p", help="Passes, instead of the recipe's.")] = None,
    backend: Annotated[str | None, typer.Option("--backend", "-b", help="Backend, e.g. onnx(threads=2).")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Target name or .toml file; several: a folder each.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Recorded inputs (.npy, .npz) for a model without data of its own.")
    ] = None,
    tune: Annotated[
        float, typer.Option(min=0, help="Seconds to let the backend choose its options by measurement.")
    ] = 0.0,
    measure: Annotated[bool, typer.Option(help="Time the model before and after, beside eager.")] = True,
    print_after: Annotated[list[str] | None, typer.Option(help="Print the program after this pass, or 'all'.")] = None,
    dump: Annotated[Path | None, typer.Option(help="Save the program after each pass as text here.")] = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Build a recipe or a model into an artifact folder with a report."""
    _load_files(load)
    from dataclasses import replace

    from rich.console import Console

    from fxopt.recipe import Recipe, read_recipe

    recipe = read_recipe(source) if source.endswith(".toml") else Recipe(model=source)
    given: dict[str, Any] = {"passes": (passes,) if passes is not None else None, "backend": backend}
    given["calibration"] = str(calibrate) if calibrate else None
    given["target"] = target[0] if target else None
    recipe = replace(recipe, **{k: v for k, v in given.items() if v is not None})
    console = Console(stderr=as_json)

    def show(name: str, report: dict[str, Any]) -> None:
        from fxopt.report import show_report

        if not as_json:
            show_report(report, console)
            seconds, folder = sum(report["seconds"].values()), _from_here(report["folder"])
            console.print(f"[bold]{folder}[/] in {seconds:.1f} s; run it with fxopt.load({folder!r})")

    with _progress(console) as progress:
        from fxopt import watchers as w
        from fxopt.building import build as run_build
        from fxopt.several import build_several, difference_table

        extra = [w.print_after(print_after, console)] if print_after else []
        extra += [w.dump(dump)] if dump else []
        options = {"measure": measure, "tune_seconds": tune, "watchers": tuple(extra), "progress": progress}
        if target and len(target) > 1:
            reports = build_several(recipe, target, out, show, **options)
        else:
            reports = {"": run_build(recipe, out, **options)}
            show("", reports[""])
    if as_json:
        print(json.dumps(reports.get("", reports), default=str))
    elif len(reports) > 1:
        console.print(difference_table(reports))
    if missed := {name: "; ".join(report["missed"]) for name, report in reports.items() if report["missed"]}:
        told = [
            _missed(f"{name}: {text}".lstrip(": "), reports[name]["folder"], out / name)
            for name, text in missed.items()
        ]
        raise BudgetError("\n".join(told))


@app.command()
def passes(load: Load = None, as_json: Json = False) -> None:
    """List the passes, one line each."""
    _list("pass", load, as_json)


@app.command()
def backends(load: Load = None, as_json: Json = False) -> None:
    """List the backends."""
    _list("backend", load, as_json)


@app.command()
def models(load: Load = None, as_json: Json = False) -> None:
    """List the workloads: models with what is known about them. A zoo takes a name, torchvision:resnet18."""
    _list("workload", load, as_json)


@app.command()
def targets(load: Load = None, as_json: Json = False) -> None:
    """List the targets with their facts, and which backends can build for them on this machine."""
    _load_files(load)
    from fxopt.target_table import target_rows

    rows = target_rows()
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        if "absent" in row:
            print(f"{row['name']:<15} {row['absent']}")
            continue
        facts = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("name", "features", "builds", "cannot_build"))
        print(f"{row['name']:<15} {facts}")
        print(
            f"{'':<15} features {' '.join(row['features']) or 'none'}; built here by {', '.join(row['builds']) or 'none'}"
        )
        for backend, reason in row["cannot_build"].items():
            print(f"{'':<15} not by {backend}: {reason}")


@app.command()
def devices(
    address: Annotated[str | None, typer.Argument(help="Address of a device to ask what it is.")] = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """List the kinds of devices, by the scheme of their addresses; or say what the device at an address is."""
    if address is None:
        _list("device", load, as_json)
        return
    _load_files(load)
    from fxopt.device import find_device

    facts = find_device(address).facts()
    print(json.dumps(facts) if as_json else "\n".join(f"{key:<12} {_words(value)}" for key, value in facts.items()))


@app.command()
def serve(
    address: Annotated[
        str, typer.Argument(help="rpc://HOST:PORT to listen at, or tracker://HOST:PORT/KEY to serve behind a tracker.")
    ] = "rpc://0.0.0.0:9090",
) -> None:
    """Let this machine be a device, on which other machines run and time what they build; for networks you trust."""
    from fxopt.device import find_device

    find_device(address).serve(print)


@app.command()
def analyses(load: Load = None, as_json: Json = False) -> None:
    """List the analyses: `fxopt explain NAME MODEL` shows what one finds in a model."""
    _list("analysis", load, as_json)


@app.command()
def explain(
    name: str,
    model: Annotated[str | None, typer.Argument(help="For an analysis: the model to look into.")] = None,
    backend: Annotated[str, typer.Option("--backend", "-b", help="For an analysis.")] = "onnx",
    target: Annotated[str, typer.Option("--target", "-t", help="For an analysis.")] = "host",
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Show the manual of a pass, a backend or a workload; or what an analysis, such as groups or quant, finds in a model."""
    _load_files(load)
    from fxopt import explain as explaining

    shown = explaining.explain(name) if model is None else explaining.analyse(name, model, backend, target)
    print(json.dumps(shown.to_dict()) if as_json else shown.text())


@app.command()
def check(name: str, load: Load = None, as_json: Json = False) -> None:
    """Run the contract tests of a pass or a backend on small models."""
    _load_files(load)
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
    _load_files(load)
    from fxopt.benching import bench as run_bench
    from fxopt.benching import bench_table

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
    _load_files(load)
    from fxopt.bundle.bundling import bundle as run_bundle

    made = run_bundle(folder, out, wheels)
    print(json.dumps(vars(made), default=str) if as_json else made.text())
    if made.missed:
        raise BudgetError(_missed(made.missed, made.path, out))


@new_app.command("pass")
def new_pass(
    name: str,
    into: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(),
) -> None:
    """Write a pass and its test to start from, and print the entry-point line."""
    from fxopt.scaffold import write_pass

    for line in write_pass(name, into):
        print(line)


def _missed(text: str, place: str | Path, asked: Path) -> str:
    """What was missed, and where what was made is, as it is not under the name that was asked for."""
    return f"{text}\n  kept as {_from_here(place)}; nothing was changed at {asked}"


def _from_here(place: str | Path) -> str:
    """A path, from the current folder on where it is below it."""
    here, place = Path.cwd(), Path(place).absolute()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)


def _words(value: Any) -> str:
    """A fact as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


def _load_files(files: list[Path] | None) -> None:
    if files:
        from fxopt import registry

        for file in files:
            registry.load_file(file)


def _list(kind: str, load: list[Path] | None, as_json: bool) -> None:
    _load_files(load)
    from fxopt import registry

    rows = list(registry.entries(kind))
    if as_json:
        print(json.dumps([vars(row) for row in rows]))
        return
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        origin = "" if row.origin == "fxopt" else f"  [{row.origin}]"
        print(f"{row.name:<{width}}  {row.summary}{origin}")


def _progress(console: Any) -> Any:
    import contextlib

    from fxopt.progress import shown_on

    @contextlib.contextmanager
    def running() -> Any:
        if not console.is_terminal:
            yield lambda stage: None
            return
        with shown_on(console), console.status("starting") as status:
            yield lambda stage: status.update(stage)

    return running()
