"""Trained models from float to int8 beside ONNX Runtime's two quantizers and NNCF, on the same file and calibration examples.

::

    python tests/bench/trained_int8.py                                # every trained workload on onnx, openvino, tvm
    python tests/bench/trained_int8.py --workloads digits pitch --backends onnx executorch --json

The metric is that of each file on the whole test split. The peers start from the float file that the backend ``onnx``
writes. All files of a workload are timed in one run on the first test example, in interleaved blocks with pauses, one thread
each; ratios are taken round by round. Each int8 file of ours has a verdict beside the peers that quantize the same way
(ranges from calibration, or taken at run time) for its runtime, or all of them where its runtime has no quantizer: whether
its metric is not worse, its size within 5 %, and its time too. A metric is worse where it is so by more than a tenth of a
point, and by more than its 95 % interval: a few of the test images may be read otherwise by luck. Needs the extras of the
backends, detection and peers.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peer_files
import torch
from paired_difference import paired_difference
from rich.console import Console
from rich.table import Table

from fxopt import Artifact, Pipeline, Workload
from fxopt.backend import find_backend
from fxopt.backends.onnx.runtime import MODEL_FILE
from fxopt.driver.lower import lower
from fxopt.runtime.artifact import model_bytes
from fxopt.runtime.timing import Timing, interleave
from fxopt.target.detect import host
from fxopt.workload import find_workload

WORKLOADS = ("digits", "glyphs", "shapes", "shape_masks", "pitch", "small_vit", "small_lm")
TRANSFORMERS = ("small_vit", "small_lm")
KINDS = {"float": "fold_batch_norm, clean_up", "static": "quantize(images={examples})", "dynamic": "quantize_dynamic"}
PEERS: dict[str, tuple[str, str, peer_files.Maker]] = {
    "quantize_static": ("onnx", "static", peer_files.ort_static),
    "quantize_dynamic": ("onnx", "dynamic", peer_files.ort_dynamic),
    "nncf": ("openvino", "static", peer_files.nncf),
}
COLUMNS = ("workload", "file", "metric", "bytes", "ms", "to float", "verdict")
POINTS, MORE = 0.001, 1.05
"""A metric that is lower by so much, or a size or time that is so many times as large, is a tie."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=WORKLOADS)
    parser.add_argument("--backends", nargs="+", default=("onnx", "openvino", "tvm"))
    parser.add_argument("--examples", type=int, default=64, help="calibration examples (%(default)s)")
    parser.add_argument("--blocks", type=int, default=21, help="timed blocks of each file (%(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # quantizers tell of every layer that they leave alone
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in options.workloads:
        with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
            rows += compare(name, options.backends, options.examples, options.blocks, Path(folder))
        if not options.json:  # as they come: a runtime may end the process
            Console(width=160).print(table([row for row in rows if row["workload"] == name]))
    if options.json:
        print(json.dumps(rows, indent=1))


def compare(name: str, backends: list[str], examples: int, blocks: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each file of a workload, with ``failed`` where there is none."""
    workload = find_workload(name)
    plain = _built(
        workload, "onnx(threads=1, operators='standard')", KINDS["float"], folder / "plain"
    )  # as peers know it
    made: dict[str, tuple[Artifact, int]] = {}
    rows: list[dict[str, Any]] = []

    def add(label: str, runtime: str, kind: str, ours: bool, make: Callable[[], tuple[Artifact, int]]) -> None:
        row = {"workload": name, "file": label, "runtime": runtime, "kind": kind, "ours": ours}
        try:
            made[label] = make()
            row["bytes"] = made[label][1]
            row["metric"] = workload.need_data("the bench").evaluate(made[label][0], "test")
        except Exception as error:  # a tool that cannot do a model is a row of the table
            row["failed"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            made.pop(label, None)
        rows.append(row)

    for backend in backends:
        for kind, passes in KINDS.items():
            at = folder / f"{backend}_{kind}"
            add(f"{backend} {kind}", backend, kind, True,
                lambda b=backend, p=passes, at=at: _sized(_built(workload, b, p.format(examples=examples), at)))  # fmt: skip
    for label, (runtime, kind, maker) in PEERS.items():
        (folder / label).mkdir()
        if label == "nncf" and name in TRANSFORMERS:
            maker = peer_files.nncf_transformer
        add(label, runtime, kind, False,
            lambda label=label, make=maker: _as_artifact(
                plain, *make(plain.folder / MODEL_FILE, workload, examples, folder / label)
            ))  # fmt: skip
    args = next(workload.need_data("the bench").batches("test", batch_size=1))[0]
    runs = {label: lambda run=at.runner: run(arrays) for label, (at, _) in made.items()}
    arrays = plain.arrays(*args)
    times = interleave(runs, blocks=blocks)
    differs = lambda a, b: paired_difference(workload.need_data("the bench"), made[a][0], made[b][0])  # noqa: E731
    for row in rows:
        if row["file"] in times:
            row |= {"ms": times[row["file"]].ms.median, "metric name": workload.need_data("the bench").metric}
            if base := times.get(f"{row['runtime']} float"):
                row["to float"] = str(times[row["file"]].ratio(base))
        if row["ours"] and row["kind"] != "float":
            row["verdict"] = verdict(row, rows, times, differs)
    return rows


def verdict(
    row: dict[str, Any],
    rows: list[dict[str, Any]],
    times: dict[str, Timing],
    differs: Callable[[str, str], tuple[float, float]],
) -> str:
    """Where a file of ours is behind each of its peers, ``holds`` where it is not, and what there is to say otherwise."""
    if "failed" in row:
        return "failed"
    peers = [other for other in rows if not other["ours"] and other["kind"] == row["kind"] and "failed" not in other]
    peers = [other for other in peers if other["runtime"] == row["runtime"]] or peers
    told = []
    for peer in peers:
        ratio = times[row["file"]].ratio(times[peer["file"]]).median
        lost, lucky = [], ""
        if row["metric"] < peer["metric"] - POINTS:
            less, half = differs(row["file"], peer["file"])
            points = f"{100 * less:+.2f} ± {100 * half:.2f} points"
            lost, lucky = ([points], "") if less + half < 0 else ([], f", {points}")
        lost += [f"{row['bytes'] / peer['bytes']:.2f} of the bytes"] * (row["bytes"] > MORE * peer["bytes"])
        lost += [f"{ratio:.2f} of the time"] * (ratio > MORE)
        told.append(f"{', '.join(lost) or 'holds'} beside {peer['file']} (time {ratio:.2f}{lucky})")
    return "; ".join(told) or "no peer"


def _built(workload: Workload, backend: str, passes: str, out: Path) -> Artifact:
    alone = backend in ("onnx", "openvino", "tvm")
    found, target = find_backend(f"{backend}(threads=1)" if alone else backend), host()
    made = Pipeline.parse(passes).run(workload.capture(), watchers=(), workload=workload, target=target, backend=found)
    out.mkdir()
    return lower(made.program, found, target, out, workload=workload)[1]


def _sized(built: Artifact) -> tuple[Artifact, int]:
    return built, model_bytes(built)


def _as_artifact(like: Artifact, runner: Any, size: int) -> tuple[Artifact, int]:
    return Artifact(like.folder, like.manifest, runner), size


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(*COLUMNS)
    for row in rows:
        if "failed" in row:
            shown.add_row(row["workload"], row["file"], f"failed: {row['failed']}"[:100])
            continue
        shown.add_row(
            row["workload"], row["file"], f"{row['metric']:.4f}", f"{row['bytes']:,}", f"{row['ms']:.3f}",
            row.get("to float", ""), row.get("verdict", ""),
        )  # fmt: skip
    return shown


if __name__ == "__main__":
    main()
