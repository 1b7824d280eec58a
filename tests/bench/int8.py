"""int8 in ONNX Runtime: fxopt's ``quantize`` beside the runtime's own ``quantize_static``, on the same images.

::

    python tests/bench/int8.py                            # the five models of the table
    python tests/bench/int8.py --models resnet18 vit_b_16 --images 64 --json

For each model: SQNR against fp32 on images that no calibration saw, integer convolutions and matrix products in the
optimized graph, and latency. All sessions of a model are timed in one run, in interleaved blocks with pauses; the ratio
is taken within each round, and its median and quartiles are shown. Below 1 is faster. Needs the extras onnx and zoo.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peer_files
import torch
from rich.console import Console
from rich.table import Table

from fxopt import Pipeline, Workload
from fxopt.backend import find_backend
from fxopt.backends.onnx.kernels import kernel_facts
from fxopt.backends.onnx.runtime import MODEL_FILE, make_runner
from fxopt.numerics.error_metrics import sqnr
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host
from fxopt.workload import find_workload

MODELS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16")
HELD_OUT = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names of torchvision's classifiers")
    parser.add_argument("--images", type=int, default=32, help="calibration images (%(default)s)")
    parser.add_argument("--threads", type=int, default=host().cores, help="threads of every session (%(default)s)")
    parser.add_argument("--blocks", type=int, default=21, help="timed blocks of each session (%(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the quantizer warns of every norm it leaves alone
    rows = []
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
            rows += compare(name, options.images, options.threads, options.blocks, Path(folder))
        Console(stderr=True).print(f"{name} done")
    print(json.dumps(rows, indent=1)) if options.json else Console(width=140).print(table(rows, options))


def compare(name: str, images: int, threads: int, blocks: int, folder: Path) -> list[dict[str, Any]]:
    """A row each for torch's own fp32 export, quantize_static on that export, and fxopt."""
    workload = find_workload(f"torchvision:{name}")
    makers: dict[str, Callable[[Path], None]] = {
        "fp32": functools.partial(export_fp32, workload),
        "quantize_static": functools.partial(quantize_static, workload, images),
        "fxopt": functools.partial(build, workload, images),
    }
    files, seconds = {}, {}
    for kind, make in makers.items():
        (folder / kind).mkdir()
        files[kind] = folder / kind / MODEL_FILE
        start = time.perf_counter()
        make(files[kind])
        seconds[kind] = time.perf_counter() - start
    runs = {kind: make_runner(path, threads, "all", True) for kind, path in files.items()}
    ratios = sqnr_on_held_out(workload, runs)
    one = [workload.inputs()[0][0].numpy()]
    times = interleave({kind: functools.partial(run, one) for kind, run in runs.items()}, blocks=blocks)
    rows = []
    for kind, path in files.items():
        facts = kernel_facts(path, {})
        rows.append(
            {
                "model": name,
                "kind": kind,
                "sqnr_db": ratios[kind],
                "integer": facts["integer_contractions"],
                "float": facts["float_contractions"],
                "latency": times[kind].to_dict(),
                "to_fp32": vars(times[kind].ratio(times["fp32"])),
                "to_quantize_static": vars(times[kind].ratio(times["quantize_static"])),
                "file_bytes": path.stat().st_size,
                "seconds": seconds[kind],
            }
        )
    return rows


def build(workload: Workload, images: int, out: Path) -> None:
    backend, target, program = find_backend("onnx"), host(), workload.capture()
    where: dict[str, Any] = {"watchers": (), "workload": workload, "target": target, "backend": backend}
    rewritten = Pipeline.parse(f"fold_batch_norm, quantize(images={images})").run(program, **where).program
    backend.build(Pipeline.parse(backend.legalize()).run(rewritten, **where).program, target, out.parent)


def export_fp32(workload: Workload, out: Path) -> None:
    """What a user of torch alone would write."""
    args, _ = workload.inputs()
    batch = ({0: torch.export.Dim("batch")},)
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(workload.model(), (args[0].repeat(2, 1, 1, 1),), out, dynamo=True, external_data=False,
                          opset_version=20, input_names=["images"], dynamic_shapes=batch, verbose=False)  # fmt: skip


def quantize_static(workload: Workload, images: int, out: Path) -> None:
    """By the runtime's quantizer, from torch's export."""
    plain = out.with_name("plain.onnx")
    export_fp32(workload, plain)
    peer_files.ort_static(plain, workload, images, out.parent)
    (out.parent / "static.onnx").rename(out)


def sqnr_on_held_out(workload: Workload, runs: dict[str, Any]) -> dict[str, float]:
    """SQNR in dB of every session against the fp32 one, over images of the test split."""
    outputs: dict[str, list[Any]] = {kind: [] for kind in runs}
    seen = 0
    for (images,), _ in workload.need_data("the comparison").batches("test", batch_size=8):
        for kind, run in runs.items():
            outputs[kind].append(run([images.numpy()])[0])
        seen += len(images)
        if seen >= HELD_OUT:
            break
    joined = {kind: [torch.from_numpy(np.concatenate(parts))] for kind, parts in outputs.items()}
    return {kind: sqnr(joined["fp32"], got) for kind, got in joined.items()}


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> Table:
    made = Table(
        title=f"{options.images} calibration images, {options.threads} threads, batch 1, {options.blocks} blocks",
        caption="latency ratios: median (quartiles) over rounds",
    )
    for column in (
        "model",
        "",
        "SQNR, dB",
        "integer",
        "float",
        "to fp32",
        "to quantize_static",
        "file, MB",
        "made in, s",
    ):
        made.add_column(column, justify="left" if column in ("model", "") else "right")
    for row in rows:
        made.add_row(
            row["model"], row["kind"], f"{row['sqnr_db']:.1f}", str(row["integer"]), str(row["float"]),
            *("{median:.2f} ({low:.2f}–{high:.2f})".format(**row[key]) for key in ("to_fp32", "to_quantize_static")),
            f"{row['file_bytes'] / 1e6:.1f}", f"{row['seconds']:.1f}",
            end_section=row["kind"] == "fxopt",
        )  # fmt: skip
    return made


if __name__ == "__main__":
    main()
