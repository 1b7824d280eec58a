"""The backend executorch beside ExecuTorch's own PT2E flow with its XNNPACK quantizer, on the same calibration inputs.

::

    python tests/bench/executorch_pt2e.py                      # digits, glyphs, mobilenet_v2, resnet18
    python tests/bench/executorch_pt2e.py --models digits --images 64 --json
    python tests/bench/executorch_pt2e.py --models small_vit --kinds float int8 dynamic 4-bit

For each model in float and int8, and where it is asked for with inputs quantized as it runs, in int8 and with 4-bit weights:
SQNR of the file against its own program, of int8 against the float model on inputs that no calibration saw, top-1 where there
is data, the share of ops that XNNPACK takes, bytes, and latency at batch 1. The files of a model are timed in one run, in
interleaved blocks with pauses; ratios are to PT2E's int8, round by round. PT2E's are exported with that one size, ours with
batches up to 32. Models without data are given noise. Needs the extras executorch and zoo.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fxopt import Pipeline, Program, Workload
from fxopt.backend import find_backend
from fxopt.backends.executorch.runtime import MODEL_FILE, Model, quiet
from fxopt.driver.lower import legalized, lower
from fxopt.numerics.error_metrics import sqnr
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host
from fxopt.workload import find_workload
from fxopt.workload.recorded import RecordedInputs

MODELS = ("digits", "glyphs", "torchvision:mobilenet_v2", "torchvision:resnet18")
KINDS = {
    "float": "clean_up", "int8": "quantize(images={images})", "dynamic": "quantize_dynamic",
    "4-bit": "quantize_weights(bits=4)",
}  # fmt: skip
COLUMNS = ("model", "kind", "own_db", "float_db", "top1", "delegated", "parts", "bytes", "ms", "to_pt2e")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=("float", "int8"))
    parser.add_argument("--images", type=int, default=32, help="calibration inputs (%(default)s)")
    parser.add_argument("--blocks", type=int, default=15, help="timed blocks of each file (%(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
            rows += compare(name, options.kinds, options.images, options.blocks, Path(folder))
        Console(stderr=True).print(f"{name} done")
    print(json.dumps(rows, indent=1)) if options.json else Console(width=140).print(table(rows))


def compare(name: str, kinds: Sequence[str], images: int, blocks: int, folder: Path) -> list[dict[str, Any]]:
    workload = find_workload(name)
    program = workload.capture()
    if workload.data is None:
        noise = np.random.default_rng(0).standard_normal((images, *program.args[0].shape[1:])).astype(np.float32)
        workload = Workload(
            name=name,
            model=workload.model,
            inputs=workload.inputs,
            data=RecordedInputs({str(program.inputs()[0].target): noise}, program),
        )
    has_metric = not name.startswith("torchvision")
    seen = [args[0] for args in workload.calibration(images, "bench")]
    held_out = torch.randn(8, *program.args[0].shape[1:], generator=torch.Generator().manual_seed(1))
    if has_metric:
        held_out = next(workload.data.batches("test", batch_size=64))[0][0]  # type: ignore[union-attr]
    runs: dict[str, Callable[[list[Any]], list[Any]]] = {}
    rows = []
    for kind in kinds:
        passes = Pipeline.parse(KINDS[kind].format(images=images))
        made = passes.run(program, watchers=(), workload=workload, target=host(), backend=_BACKEND).program
        (folder / kind).mkdir()
        _, artifact = lower(made, _BACKEND, host(), folder / kind)
        facts = artifact.manifest.facts
        rows.append(
            _row(name, f"fxopt {kind}", made, artifact, program, held_out, workload if has_metric else None)
            | {"delegated": facts["delegated_share"], "parts": facts["delegates"]}
            | {"bytes": (folder / kind / MODEL_FILE).stat().st_size}
        )
        runs[f"fxopt {kind}"] = artifact.runner
    for kind in [kind for kind in ("int8", "dynamic") if kind == "int8" or kind in kinds]:
        file = folder / f"pt2e_{kind}.pte"
        theirs, share, parts = pt2e(program, seen, file, dynamic=kind == "dynamic")
        model = runs[f"pt2e {kind}"] = Model(file, None)
        one_by_one = functools.partial(_one_by_one, model)
        rows.append(
            _row(name, f"pt2e {kind}", theirs, one_by_one, program, held_out, workload if has_metric else None)
            | {"delegated": share, "parts": parts, "bytes": file.stat().st_size}
        )
    one = [np.ascontiguousarray(held_out[:1].numpy())]
    times = interleave({kind: lambda run=run: run(one) for kind, run in runs.items()}, blocks=blocks)
    for row in rows:
        timing = times[row["kind"]]
        row |= {"ms": timing.ms.median, "to_pt2e": str(timing.ratio(times["pt2e int8"]))}
    return rows


_BACKEND = find_backend("executorch")


def _one_by_one(model: Model, x: Any) -> Any:
    return np.concatenate([model([np.ascontiguousarray(row[None])])[0] for row in np.asarray(x)])


def _row(
    name: str, kind: str, own: Any, run: Any, program: Program, x: torch.Tensor, workload: Workload | None
) -> dict[str, Any]:
    got = torch.from_numpy(run(x.numpy()))
    want = torch.cat([own(row[None]) for row in x])
    return {
        "model": name,
        "kind": kind,
        "own_db": sqnr([want], [got]),
        "float_db": sqnr([program(x)], [got]),
        "top1": workload.data.evaluate(lambda x: run(x.numpy()), "test") if workload and workload.data else None,
    }


def pt2e(program: Program, seen: list[torch.Tensor], path: Path, *, dynamic: bool) -> tuple[Any, float, int]:
    """Quantize and lower as ExecuTorch's documentation does; return the quantized module, the share delegated, and the parts."""
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.exir import to_edge_transform_and_lower
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        example = (program.args[0][:1].clone(),)
        folded = legalized(program, _BACKEND, host())
        exported = torch.export.export(folded.module, example).module()
        quantizer = XNNPACKQuantizer().set_global(
            get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
        )
        prepared = prepare_pt2e(exported, quantizer)
        with torch.no_grad():
            for batch in seen:
                for row in batch:
                    prepared(row[None])
        converted = convert_pt2e(prepared)
        edge = to_edge_transform_and_lower(torch.export.export(converted, example), partitioner=[XnnpackPartitioner()])
        whole = edge.exported_program().graph_module
        parts = [part for _, part in whole.named_children() if hasattr(part, "original_module")]
        names = lambda graph: [  # noqa: E731
            n for n in graph.nodes
            if n.op == "call_function" and "delegate" not in str(n.target) and "getitem" not in str(n.target)
        ]  # fmt: skip
        inside = sum(len(names(part.original_module.graph)) for part in parts)
        share = inside / (inside + len(names(whole.graph)))
        path.write_bytes(edge.to_executorch().buffer)
    return converted, round(share, 4), len(parts)


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(*COLUMNS)
    for row in rows:
        cells = (row[column] for column in COLUMNS)
        shown.add_row(
            *(f"{cell:.4g}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in cells)
        )
    return shown


if __name__ == "__main__":
    main()
