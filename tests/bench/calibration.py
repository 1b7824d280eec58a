"""Time and memory of calibration as the number of images grows: fxopt's observers beside the peers' calibrators.

::

    python tests/bench/calibration.py                                  # resnet50, 30, 300 and 3000 images
    python tests/bench/calibration.py --images 30 300 --peer-images 300

Each row is a process of its own. Images of 224x224 are made batch by batch and not held. Seconds are those of calibration
alone, from the first batch to the ranges: for fxopt ``calibrate`` and every scale, for ONNX Runtime ``collect_data`` and
``compute_data`` of its calibrators with quantize_static's settings. ``nncf.quantize`` cannot be divided, so its row holds
the quantization of the weights and the correction of biases too. ``forward`` is fxopt's run of the graph without any
observer: what the others have to be held against. CPU seconds add up all threads. Memory is the largest resident size
less that before calibration. Peers run up to ``--peer-images``, as some keep every activation. Writes
build/calibration.md. Needs the extras onnx and zoo, and Linux; peers that are not installed have no row.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from fxopt import Pipeline, Workload
from fxopt.backend.quant_policy import Policy
from fxopt.passes.quant.calibrate import calibrate
from fxopt.passes.quant.observers import OBSERVERS
from fxopt.passes.quant.placement import place
from fxopt.passes.quant.quantize import PREPARATION
from fxopt.workload import find_workload

OUT = Path("build/calibration.md")
OURS = ("forward", *OBSERVERS)
PEERS = ("ort MinMax", "ort Percentile", "ort Entropy", "nncf.quantize")
_MISSING = 3
"""The exit code of a row whose peer is not installed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="name of one of torchvision's classifiers (%(default)s)")
    parser.add_argument(
        "--images", type=int, nargs="+", default=[30, 300, 3000], help="numbers of images (%(default)s)"
    )
    parser.add_argument("--peer-images", type=int, default=30, help="largest number for peers (%(default)s)")
    parser.add_argument("--rows", nargs="+", default=[*OURS, *PEERS], help="rows to measure (all)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one row, in the process of its own
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.model, options.images[0])))
        return
    wanted = [
        (row, count) for count in options.images for row in options.rows if row in OURS or count <= options.peer_images
    ]
    found = []
    for row, count in track(wanted, console=Console(stderr=True)):
        command = [sys.executable, __file__, "--model", options.model, "--measure", row, "--images", str(count)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if ended.returncode != _MISSING:
            measured = json.loads(ended.stdout.splitlines()[-1]) if ended.returncode == 0 else None
            found.append((row, count, measured))
    text = table(options.model, found)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text)
    print(text)


def measure(row: str, model: str, count: int) -> dict[str, float]:
    """Seconds of a calibration and the growth of the process in MB."""
    logging.disable(logging.WARNING)
    workload = synthetic(find_workload(f"torchvision:{model}"))
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        run = prepared(row, workload, count, Path(folder))
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        start, cpu = time.perf_counter(), time.process_time()
        run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        return {"seconds": seconds, "cpu": cpu, "megabytes": resident("VmHWM") - before}


def resident(field: str) -> float:
    """A size of this process in MB, from its status file."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3


class Images:
    """Any number of images of smooth noise, 3x224x224 of mean 0 and deviation 1 or so, made as they are asked for."""

    metric = "none"

    def batches(self, split: str, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Any, Any]]:
        generator = torch.Generator().manual_seed(0)
        while True:
            coarse = torch.randn(batch_size, 3, 14, 14, generator=generator)
            smooth = torch.nn.functional.interpolate(coarse, (224, 224), mode="bicubic")
            yield (smooth + 0.2 * torch.randn(smooth.shape, generator=generator),), None


def synthetic(workload: Workload) -> Workload:
    """The workload with such images."""
    data: Any = Images()
    return Workload(name=workload.name, model=workload.model, inputs=workload.inputs, data=data)


def prepared(row: str, workload: Workload, count: int, folder: Path) -> Callable[[], Any]:
    """All that comes before calibration is done here; the rest is in the function."""
    if row in OURS:
        return fxopt_calibration(row, workload, count)
    try:
        return nncf_quantize(workload, count, folder) if row == "nncf.quantize" else ort(row, workload, count, folder)
    except ImportError:
        sys.exit(_MISSING)


def fxopt_calibration(row: str, workload: Workload, count: int) -> Callable[[], Any]:
    program = Pipeline(PREPARATION).run(workload.capture(), watchers=()).program
    placed = place(program, Policy(), ())
    values = {} if row == "forward" else {owner: owner for owner in placed.values.values()}
    kind: Any = "min_max" if row == "forward" else row

    def run() -> None:
        batches = workload.calibration(count, "the bench")
        for observer in calibrate(program, batches, values, calibration=kind, images=count).values():
            observer.affine()

    return run


def ort(row: str, workload: Workload, count: int, folder: Path) -> Callable[[], Any]:
    from int8 import export_fp32
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = workload.calibration(count, "the bench")

        def get_next(self) -> dict[str, Any] | None:
            args = next(self._batches, None)
            return None if args is None else {"images": args[0].numpy()}

    plain, ready = folder / "plain.onnx", folder / "ready.onnx"
    export_fp32(workload, plain)
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    ops = list({*QDQRegistry, *QLinearOpsRegistry})
    calibrator = create_calibrator(
        ready, ops, str(folder / "augmented.onnx"), CalibrationMethod[row.removeprefix("ort ")]
    )

    def run() -> None:
        calibrator.collect_data(Reader())
        calibrator.compute_data()

    return run


def nncf_quantize(workload: Workload, count: int, folder: Path) -> Callable[[], Any]:
    import nncf
    import openvino
    from int8 import export_fp32

    export_fp32(workload, folder / "plain.onnx")
    model = openvino.Core().read_model(folder / "plain.onnx")

    def run() -> None:
        batches = nncf.Dataset(workload.calibration(count, "the bench"), lambda args: args[0].numpy())
        nncf.quantize(model, batches, subset_size=-(-count // min(32, count)))

    return run


def table(model: str, found: list[tuple[str, int, dict[str, float] | None]]) -> str:
    forward = {count: result for row, count, result in found if row == "forward" and result}
    lines = [
        f"Calibration of {model}, {torch.get_num_threads()} threads, images of 224x224 in batches of 32 at most.",
        "",
        "| calibration | images | s | / forward | CPU s | / forward | peak MB above the start |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, count, result in found:
        if result is None:
            lines.append(f"| {row} | {count} | failed | | | | |")
            continue
        cells = [row, str(count)]
        for key in ("seconds", "cpu"):
            cells += [f"{result[key]:.1f}", f"{result[key] / forward[count][key]:.2f}" if count in forward else ""]
        lines.append(f"| {' | '.join(cells)} | {result['megabytes']:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
