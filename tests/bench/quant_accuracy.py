"""What quantization costs in accuracy: fxopt beside ONNX Runtime, NNCF and torchao, same models, same calibration images.

::

    python tests/bench/quant_accuracy.py                                  # all sections; about an hour on one core
    python tests/bench/quant_accuracy.py accuracy outliers --images 64
    python tests/bench/quant_accuracy.py zoo --models resnet18 --sides fxopt ort

accuracy     int8 of the networks that this project trained, top-1 on the test split
ill_scaled   a depthwise network whose channels are up to 100 times as large as others
outliers     a transformer three channels of which are 50 times as large as the others
zoo          torchvision's models at 96 pixels with random weights: signal-to-noise ratio alone
weights      int4 weights in blocks of 32, activations in float
training     quantization-aware training, int4 weights and int8 activations
composed     half of the channels pruned, trained again, quantized: which kernels run in integers

Each row is a process of its own with a time limit, and runs what the side deploys: fxopt's artifact in ONNX Runtime (or
OpenVINO, where it says so), ONNX Runtime's model there, NNCF's in OpenVINO with float32 between integer layers, torchao's
converted graph in torch. SQNR is that of the scores on test images against the float model. A row that failed says why.
Networks that have to be trained first are kept in build/quant_accuracy. Writes build/quant_accuracy.md as rows come in. Needs
the extras onnx, openvino, zoo and peers.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import quant_sides as sides
import torch
from quant_models import model_of
from quant_sides import Quantized, Side, fxopt
from rich.console import Console
from rich.progress import track

from fxopt.numerics.error_metrics import sqnr
from fxopt.workload import Workload

OUT = Path("build/quant_accuracy.md")
PEERS: dict[str, Side] = {"ort": sides.ort, "nncf": sides.nncf, "torchao": sides.torchao}
PLAIN = "quantize(images={images})"
OURS: dict[str, Side] = {"fxopt": fxopt(PLAIN), "fxopt openvino": fxopt(PLAIN, "openvino")}
EQUALIZED = "fold_batch_norm, equalize, quantize(images={images}, correct_bias='empirical')"
SMOOTHED = "fold_constants, smooth_activations(images={images}), quantize(images={images})"
PRUNED = "prune_channels(ratio=0.5, by='taylor'), finetune(epochs=3), quantize(images={images})"
CORRECTED: dict[str, Side] = {
    "fxopt equalized": fxopt(EQUALIZED),
    "fxopt equalized openvino": fxopt(EQUALIZED, "openvino"),
}
SECTIONS: dict[str, tuple[tuple[str, ...], dict[str, Side]]] = {
    "accuracy": (("digits", "glyphs", "digits_vit"), OURS | CORRECTED | PEERS),
    "ill_scaled": (("ill_scaled",), OURS | CORRECTED | PEERS),
    "outliers": (
        ("outlier_vit",),
        OURS
        | {"fxopt smoothed": fxopt(SMOOTHED), "fxopt smoothed openvino": fxopt(SMOOTHED, "openvino")}
        | PEERS
        | {"nncf transformer": sides.nncf_transformer},
    ),
    "zoo": (("resnet18", "mobilenet_v2", "efficientnet_b0", "vit_b_16", "convnext_tiny"), OURS | CORRECTED | PEERS),
    "weights": (
        ("digits_vit", "outlier_vit"),
        {
            "fxopt nearest": fxopt("quantize_weights"),
            "fxopt gptq": fxopt("quantize_weights(rounding='gptq', images={images})"),
            "ort": sides.ort_weights,
            "nncf": sides.nncf_weights,
            "nncf gptq": sides.nncf_gptq,
            "torchao": sides.torchao_weights,
        },
    ),
    "training": (("digits", "glyphs"), {"fxopt": fxopt("train_quantized(weight_bits=4, images={images}, epochs=5)")}),
    "composed": (("digits", "glyphs"), {"fxopt": fxopt(PRUNED), "fxopt openvino": fxopt(PRUNED, "openvino")}),
}
HELD_OUT = 512
_COLUMNS = ("section", "model", "side", "float", "quantized", "loss, points", "SQNR, dB", "integer", "float kernels",
            "dequantized at run time", "s")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), help=f"of {', '.join(SECTIONS)} (all)")
    parser.add_argument("--models", nargs="+", help="models of the sections (all)")
    parser.add_argument("--sides", nargs="+", help="sides of the sections (all)")
    parser.add_argument("--images", type=int, default=64, help="calibration images (%(default)s)")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a row may take (%(default)s)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # one row, in the process of its own
    options = parser.parse_args()
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {unknown[0]!r}; there are: {', '.join(SECTIONS)}")
    wanted = [
        (section, model, side)
        for section in options.sections
        for model in SECTIONS[section][0]
        if options.models is None or model in options.models
        for side in SECTIONS[section][1]
        if options.sides is None or side in options.sides
    ]
    if options.measure:
        ((section, model, side),) = wanted
        print(json.dumps(measure(model_of(model), SECTIONS[section][1][side], options.images)))
        return
    for model in dict.fromkeys(model for _, model, _ in wanted):
        model_of(model)  # trained before the clock of any row starts
    OUT.parent.mkdir(exist_ok=True)
    rows: list[tuple[str, str, str, dict[str, Any]]] = []
    for row in track(wanted, console=Console(stderr=True)):
        rows.append((*row, apart(row, options.images, options.limit)))
        OUT.write_text(table(rows, options.images))
    print(table(rows, options.images))


def apart(row: tuple[str, str, str], images: int, limit: float) -> dict[str, Any]:
    """Measure a row in a process of its own; ``failed`` is the reason why there are no figures."""
    section, model, side = row
    command = [
        sys.executable,
        __file__,
        section,
        "--models",
        model,
        "--sides",
        side,
        "--images",
        str(images),
        "--measure",
    ]
    with tempfile.TemporaryFile("w+") as errors:
        try:
            ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {limit:.0f} s"}
        if ended.returncode == 0:
            return json.loads(ended.stdout.splitlines()[-1])
        errors.seek(0)
        last = [line for line in errors.read().splitlines() if line and not line.startswith(" ")]
    return {"failed": last[-1][:200] if last else f"exit code {ended.returncode}"}


def measure(workload: Workload, side: Side, images: int) -> dict[str, Any]:
    """The metric of the float and of the quantized model, their signal-to-noise ratio, and the runtime's facts."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        start = time.perf_counter()
        made = side(workload, images, Path(folder))
        seconds = time.perf_counter() - start
        data, reference = workload.need_data("the comparison"), sides.torch_float(workload, images, Path(folder))
        with torch.no_grad():
            facts = {
                "float": data.evaluate(reference.run, "test"),
                "quantized": data.evaluate(made.run, "test"),
                "metric": data.metric,
                "sqnr_db": noise(workload, reference, made),
                "seconds": seconds,
            }
        kernels = ("integer_contractions", "float_contractions", "dequantized_at_run_time")
        return facts | {key: made.facts[key] for key in kernels if key in made.facts}


def noise(workload: Workload, reference: Quantized, made: Quantized) -> float:
    """SQNR in dB over the first images of the test split."""
    want, got, seen = [], [], 0
    for (images,), _ in workload.need_data("the comparison").batches("test", batch_size=32):
        want.append(torch.as_tensor(reference.run(images)))
        got.append(torch.as_tensor(made.run(images)))
        seen += len(images)
        if seen >= HELD_OUT:
            break
    return sqnr([torch.cat(want)], [torch.cat(got)])


def table(rows: list[tuple[str, str, str, dict[str, Any]]], images: int) -> str:
    lines = [f"{images} calibration images, {torch.get_num_threads()} threads.", ""]
    lines += [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for section, model, side, found in rows:
        if "failed" in found:
            cells = [section, model, side, f"failed: {found['failed'].replace('|', '/')}"] + [""] * (len(_COLUMNS) - 4)
        else:
            loss = 100 * (found["float"] - found["quantized"])
            late = found.get("dequantized_at_run_time")
            counts = [str(found.get(key, "")) for key in ("integer_contractions", "float_contractions")]
            cells = [
                section, model, side, f"{found['float']:.4f}", f"{found['quantized']:.4f}", f"{loss:.2f}",
                f"{found['sqnr_db']:.1f}", *counts, "" if late is None else str(len(late)), f"{found['seconds']:.0f}",
            ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
