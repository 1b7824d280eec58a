"""What a build costs beside an export: CPU seconds and peak memory of models of growing size, proofs included.

::

    python tests/bench/build_cost.py                                  # torchvision models of 1 to 87 million weights
    python tests/bench/build_cost.py --models resnet18 --ways export float --rounds 3

Each job is a process of its own, on one thread; the jobs of a model take turns, and the least of the rounds is shown.
Seconds are of processor time from the model to the written file, without imports. Memory is the peak above what the process
held before it made the model, as a multiple of the float32 weights.

* export: ``torch.onnx.export(dynamo=True)``, as a user of torch alone would write it
* float: ``fold_batch_norm, clean_up`` to the backend onnx, with proofs, without timing
* lowered: the same passes, proofs, file and check, without the metric of both models on the workload's images, which an export
  does not take either
* quantize_static: the export, and ONNX Runtime's own preprocessing and quantizer, with images of random numbers
* int8: ``fold_batch_norm, quantize`` to the backend onnx, with as many images
* torch.export, capture: the first stage of both
* clean_up, prune: exact passes, and ``prune_channels(ratio=0.3)``, with proofs, on a captured program; peak of both
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from int8 import export_fp32, quantize_static
from rich.console import Console
from rich.table import Table

from fxopt import Pipeline, Recipe, build
from fxopt.backend import find_backend
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.lower import lower
from fxopt.models.vision_import import import_torchvision
from fxopt.target.detect import host
from fxopt.workload import find_workload

MODELS = ("squeezenet1_1", "resnet18", "resnet50", "vit_b_16")
BESIDE = {"float": "export", "lowered": "export", "int8": "quantize_static", "capture": "torch.export"}
"""By our way, the peer's."""


def _built(name: str, images: int, out: Path, passes: str) -> None:
    recipe = Recipe(f"torchvision:{name}", tuple(passes.split("; ")), "onnx")
    build(recipe, out / "built", measure=False, cache=False)


def _lowered(name: str, images: int, out: Path, passes: str) -> None:
    program = Pipeline.parse(passes).run(find_workload(f"torchvision:{name}").capture()).program
    (out / "lowered").mkdir()
    lowered, artifact = lower(program, find_backend("onnx"), host(), out / "lowered")
    Fidelity(lowered).check(artifact)


def _rewritten(name: str, images: int, out: Path, passes: str) -> None:
    Pipeline.parse(passes).run(find_workload(f"torchvision:{name}").capture())


def _torch_export(name: str) -> None:
    workload = find_workload(f"torchvision:{name}")
    args, _ = workload.inputs()
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.export(workload.model(), (args[0].repeat(2, 1, 1, 1),), dynamic_shapes=batch)


WAYS: dict[str, Callable[[str, int, Path], object]] = {
    "export": lambda name, _, out: export_fp32(find_workload(f"torchvision:{name}"), out / "model.onnx"),
    "float": lambda name, n, out: _built(name, n, out, "fold_batch_norm; clean_up"),
    "lowered": lambda name, n, out: _lowered(name, n, out, "fold_batch_norm, clean_up"),
    "quantize_static": lambda name, n, out: quantize_static(
        find_workload(f"torchvision:{name}"), n, out / "model.onnx"
    ),
    "int8": lambda name, n, out: _built(name, n, out, f"fold_batch_norm; quantize(images={n})"),
    "torch.export": lambda name, _, __: _torch_export(name),
    "capture": lambda name, _, __: find_workload(f"torchvision:{name}").capture(),
    "clean_up": lambda name, n, out: _rewritten(name, n, out, "clean_up"),
    "prune": lambda name, n, out: _rewritten(name, n, out, "prune_channels(ratio=0.3)"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names of torchvision's classifiers (%(default)s)")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--images", type=int, default=32, help="calibration images (%(default)s)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(options.models[0], options.child, options.images)))
        return
    table = Table(title=f"least of {options.rounds} rounds")
    for column in ("model", "weights, M", "way", "CPU s", "/ peer", "peak, MB", "peak / weights"):
        table.add_column(column, justify="left" if column in ("model", "way") else "right")
    for model in options.models:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
        for _ in range(options.rounds):
            for way in options.ways:
                found[way].append(_run(model, way, options.images))
        seconds = {way: min(run["seconds"] for run in runs) for way, runs in found.items()}
        for way, runs in found.items():
            peak, weights = min(run["peak"] for run in runs), runs[0]["weights"]
            peer = seconds.get(BESIDE.get(way, ""))
            ratio = f"{seconds[way] / peer:.2f}" if peer else ""
            memory = (f"{peak / 1e6:.0f}", f"{peak / weights:.1f}")
            table.add_row(model, f"{weights / 4e6:.1f}", way, f"{seconds[way]:.1f}", ratio, *memory)
    Console(width=120).print(table)


def _run(model: str, way: str, images: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--models", model, "--images", str(images), "--child", way]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{model}, {way}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _child(name: str, way: str, images: int) -> dict[str, float]:
    """CPU seconds, peak bytes above those before, and bytes of the model's weights."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    import_torchvision()
    torch.onnx.export(torch.nn.Linear(2, 2), (torch.randn(2, 2),), dynamo=True, verbose=False)  # what it imports
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        start = _used()
        WAYS[way](name, images, Path(folder))
        seconds = _used() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    weights = sum(4 * p.numel() for p in find_workload(f"torchvision:{name}").model().parameters())
    return {"seconds": seconds, "peak": peak, "weights": weights}


def _used() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


if __name__ == "__main__":
    main()
