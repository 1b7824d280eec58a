"""The detector of `shapes` as its recipe makes it, beside int8 alone and the runtimes' own quantizers: mAP, bytes, latency.

::

    python tests/bench/detection.py                              # onnx, openvino, tvm
    python tests/bench/detection.py --backends onnx --json

For each backend: the model in float; in int8; in int8 with the last layers of the head in float; and as models/shapes.toml
makes it, pruned, distilled and in int8, likewise both ways. Beside them `quantize_static` of ONNX Runtime and, where it is
installed, NNCF run by OpenVINO, on the same calibration images. mAP is that of the artifact on the test split, after the same
tail. All files of a backend are timed in one run at batch 1, in interleaved blocks with pauses, with one thread; ratios are to
the backend's float, round by round. Programs are trained once and shared by all backends. Needs the extras of the backends,
detection and train.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peer_files
import torch
from int8 import export_fp32
from rich.console import Console
from rich.table import Table

from fxopt import Pipeline, Program, Workload
from fxopt.backend import find_backend
from fxopt.driver.default_cache import default_cache
from fxopt.driver.lower import lower
from fxopt.driver.recipe import read_recipe
from fxopt.ir.cost import cost
from fxopt.runtime.artifact import model_bytes
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host
from fxopt.workload import find_workload

RECIPE = Path(__file__).parents[2] / "models" / "shapes.toml"
HEAD = "keep_float=('net.head.*.classes', 'net.head.*.boxes')"
COLUMNS = ("backend", "kind", "mAP@50", "mAP@50:95", "points lost", "MACs", "bytes", "ms", "to_float")

Run = Callable[[list[Any]], list[Any]]
"""Flat numpy arrays in and out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["onnx", "openvino", "tvm"])
    parser.add_argument("--images", type=int, default=64, help="calibration images (%(default)s)")
    parser.add_argument("--blocks", type=int, default=21, help="timed blocks of each file (%(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # quantizers tell of every layer that they leave alone
    torch.set_num_threads(1)
    recipe = read_recipe(RECIPE)
    workload = find_workload(recipe.model)
    dense = workload.capture()
    lossy = ", ".join(text for text in recipe.passes if not text.startswith("quantize"))
    small = Pipeline.parse(lossy).run(dense, workload=workload, watchers=(), cache=default_cache()).program
    rows: list[dict[str, Any]] = []
    for name in options.backends:
        with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
            rows += compare(name, workload, dense, small, options.images, options.blocks, Path(folder))
        Console(stderr=True).print(f"{name} done")
    print(json.dumps(rows, indent=1)) if options.json else Console(width=140).print(table(rows))


def compare(
    name: str, workload: Workload, dense: Program, small: Program, images: int, blocks: int, folder: Path
) -> list[dict[str, Any]]:
    """A row for each kind of file of a backend."""
    backend, target = find_backend(f"{name}(threads=1)" if name != "executorch" else name), host()
    int8, head = f"quantize(images={images})", f"quantize(images={images}, {HEAD})"
    kinds = {
        "float": (dense, "fold_batch_norm, clean_up"),
        "int8": (dense, int8),
        "int8, head float": (dense, head),
        "small float": (small, "clean_up"),
        "small int8": (small, int8),
        "small int8, head float": (small, head),
    }
    runs: dict[str, Run] = {}
    models: dict[str, Callable[[torch.Tensor], Any]] = {}
    rows = []
    for kind, (program, passes) in kinds.items():
        made = Pipeline.parse(passes).run(program, workload=workload, watchers=(), backend=backend, target=target)
        (folder / kind).mkdir()
        _, artifact = lower(made.program, backend, target, folder / kind, workload=workload)
        runs[kind], models[kind] = artifact.runner, artifact
        rows.append({"kind": kind, "MACs": cost(program).macs, "bytes": model_bytes(artifact)})
    for kind, make in PEERS.get(name, {}).items():
        (folder / kind).mkdir()
        export_fp32(graph_of(workload), folder / kind / "plain.onnx")
        runs[kind], size = make(folder / kind / "plain.onnx", graph_of(workload), images, folder / kind)
        models[kind] = lambda x, run=runs[kind]: run([x.numpy()])
        rows.append({"kind": kind, "MACs": cost(dense).macs, "bytes": size})
    one = [dense.args[0].numpy()]
    times = interleave({kind: lambda run=run: run(one) for kind, run in runs.items()}, blocks=blocks)
    data: Any = workload.need_data("the bench")
    for row in rows:
        found = data.figures(models[row["kind"]], "test")
        row |= {"backend": name, "mAP@50": found["mAP@50"], "mAP@50:95": found["mAP@50:95"]}
        row["points lost"] = 100 * (rows[0]["mAP@50"] - row["mAP@50"])
        row |= {"ms": times[row["kind"]].ms.median, "to_float": str(times[row["kind"]].ratio(times["float"]))}
    return rows


def graph_of(workload: Workload) -> Workload:
    """The workload with the module that is captured alone, as other tools take it."""
    until = str(workload.until)
    return replace(workload, model=lambda: workload.model().get_submodule(until), until=None)


PEERS: dict[str, dict[str, peer_files.Maker]] = {
    "onnx": {"quantize_static": peer_files.ort_static},
    "openvino": {"nncf": peer_files.nncf} if importlib.util.find_spec("nncf") else {},
}


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(*COLUMNS)
    for row in rows:
        cells = (row[column] for column in COLUMNS)
        texts = {float: "{:.4g}", int: "{:,}", str: "{}"}
        shown.add_row(*(texts[type(cell)].format(cell) for cell in cells))
    return shown


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
