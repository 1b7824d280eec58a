"""The command that searches a supernet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fxopt.cli.app import BUILD, Calibrate, Device, Json, Load, app, load_files
from fxopt.errors import BudgetError


@app.command(rich_help_panel=BUILD)
def nas(
    model: Annotated[str, typer.Argument(help="A model name, module:attribute, or a .pt2 file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the search; the same one goes on.")],
    targets: Annotated[str, typer.Option("--targets", "-t", help="Target names or .toml files, by commas.")] = "host",
    backend: Annotated[str, typer.Option("--backend", "-b", help="The backend to build with.")] = "onnx",
    latency: Annotated[str | None, typer.Option(help="Largest latency in ms, or 0.5x.")] = None,
    macs: Annotated[str | None, typer.Option(help="Most multiply-accumulates, or 0.25x.")] = None,
    size: Annotated[str | None, typer.Option(help="Largest file in bytes, or 0.1x.")] = None,
    drop: Annotated[str | None, typer.Option(help="Largest loss of the metric.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs in which the supernet is trained.")] = 20,
    rate: Annotated[float, typer.Option(help="Its highest learning rate.")] = 1e-3,
    by: Annotated[str, typer.Option(help="Importance by which channels are sorted.")] = "l2",
    behind: Annotated[
        str, typer.Option(help="Passes behind the extraction, such as distill(epochs=3), fold_batch_norm, quantize.")
    ] = "fold_batch_norm",
    trials: Annotated[int, typer.Option(min=2, help="Sub-networks to evolve for each target.")] = 160,
    answers: Annotated[int, typer.Option(min=1, help="Sub-networks to build for each target.")] = 8,
    seed: Annotated[int, typer.Option(help="Another seed, other sub-networks.")] = 0,
    device: Device = None,
    calibrate: Calibrate = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Train one supernet of a model, and find its best sub-networks for several targets."""
    load_files(load)
    from rich.console import Console

    from fxopt.automl.nas.asked import asked
    from fxopt.automl.nas.nas import ADVICE
    from fxopt.automl.nas.nas import nas as run
    from fxopt.cli.nas_view import show_nas
    from fxopt.pass_manager.pipeline import Pipeline

    limits = {"latency_ms": latency, "macs": macs, "file_bytes": size, "metric_drop": drop}
    ask = asked(
        model, out, targets=[name.strip() for name in targets.split(",") if name.strip()], backend=backend,
        limits={k: v for k, v in limits.items() if v is not None}, epochs=epochs, rate=rate, by=by,
        behind=[str(p) for p in Pipeline.parse(behind).passes], trials=trials, answers=answers, seed=seed,
        calibration=str(calibrate) if calibrate else None, device=device or "cpu",
        load=[str(file.resolve()) for file in load or ()],
    )  # fmt: skip
    console = Console(stderr=True)
    if len(ask.targets) == 1:
        console.print(f"note: {ADVICE}", soft_wrap=True)
    report = run(ask, out, progress=lambda line: console.print(line, style="dim"))
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        show_nas(report, out, Console())
    empty = [target.name for target in report.targets if not target.front]
    if empty:
        raise BudgetError(f"no sub-network keeps all limits for {', '.join(empty)}; {out}/nas.json has what was found")
