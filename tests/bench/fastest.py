"""``fastest`` beside what else makes a model fast on a processor: the best of four peers.

::

    python tests/bench/fastest.py                                  # the five models of the table
    python tests/bench/fastest.py --models resnet18 --rounds 5
    python tests/bench/fastest.py --models vit_b_16 --peers ort openvino    # NNCF takes more than ten minutes

For each model, with random weights and randomised statistics, batch 1: fxopt builds ``fold_batch_norm, quantize`` by the
backend ``fastest``; the peers are torch's inductor in bf16, ONNX Runtime's ``quantize_static``, OpenVINO in float with its
own choice of precision (bf16 where the processor has it), and NNCF's ``quantize`` run by OpenVINO. All are timed in one
run, in interleaved blocks with pauses; the ratio is taken within each round, and its median and quartiles are shown. Below
1 is faster than the best peer. SQNR is against fp32, over the same held-out images for all. The table is written as
markdown, after each model. Needs the extras onnx, openvino, tvm and zoo, a C++ compiler, and ``pip install nncf``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from int8 import export_fp32, quantize_static, sqnr_on_held_out

import fxopt
from fxopt import Workload
from fxopt.backends.onnx.runtime import make_runner as onnx_runner
from fxopt.backends.openvino.runtime import make_runner as openvino_runner
from fxopt.backends.openvino.runtime import properties
from fxopt.driver.build import build
from fxopt.driver.recipe import Recipe
from fxopt.runtime.timing import interleave
from fxopt.workload import find_workload

MODELS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16")
PEERS = ("inductor", "ort", "openvino", "nncf")
Run = Callable[[list[Any]], list[Any]]
"""Flat numpy inputs to flat numpy outputs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names of torchvision's classifiers")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS, help="to compare with (all)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every candidate (%(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="timed blocks of each candidate (%(default)s)")
    parser.add_argument("--images", type=int, default=32, help="calibration images (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/fastest.md"), help="the table (%(default)s)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the quantizers warn of every norm they leave alone
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"Median ms a call (quartiles), {options.threads} threads, batch 1, {options.rounds} rounds; SQNR to fp32 in dB.",
        "",
        "| model | candidate | ms | SQNR, dB | ours ÷ it |",
        "|---|---|---|---|---|",
    ]
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
            lines += compare(name, options, Path(folder))
        options.out.write_text("\n".join(lines) + "\n")
    print(options.out.read_text())


def compare(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """Lines of the table for one model: ours, every peer, and the ratio to the best of them."""
    workload = find_workload(f"torchvision:{name}")
    plain = folder / "fp32.onnx"
    export_fp32(workload, plain)
    makers: dict[str, tuple[str, Callable[[], Run]]] = {
        "inductor": ("inductor bf16", lambda: inductor(workload)),
        "ort": ("ORT int8", lambda: ort_int8(workload, options, folder)),
        "openvino": (
            "OpenVINO float", lambda: openvino_runner(plain, properties(options.threads, "auto", "latency"))
        ),
        "nncf": ("NNCF → OpenVINO int8", lambda: nncf_int8(workload, options, plain)),
    }  # fmt: skip
    peers = {title: make() for title, make in (makers[name] for name in options.peers)}
    ours, chosen = fastest(f"torchvision:{name}", options, folder / "ours")
    runs = {"ours": ours, **peers}
    fp32 = onnx_runner(plain, options.threads, "all", True)
    ratios = sqnr_on_held_out(workload, {"fp32": fp32, **runs})
    one = [workload.inputs()[0][0].numpy()]
    times = interleave({kind: functools.partial(run, one) for kind, run in runs.items()}, blocks=options.rounds)
    best = min(peers, key=lambda kind: times[kind].ms.median)
    lines = []
    for kind in runs:
        label = f"ours: {chosen}" if kind == "ours" else f"**{kind}** (best peer)" if kind == best else kind
        ratio = "" if kind == "ours" else str(times["ours"].ratio(times[kind]))
        ratio = f"**{ratio}**" if kind == best else ratio
        lines.append(f"| {name} | {label} | {times[kind].ms} | {ratios[kind]:.1f} | {ratio} |")
    return lines


def fastest(model: str, options: argparse.Namespace, out: Path) -> tuple[Run, str]:
    """What fxopt builds and its choice; candidates are bound to the threads that the peers have."""
    among = tuple(f"{name}(threads={options.threads})" for name in ("onnx", "openvino", "tvm"))
    passes = (f"fold_batch_norm, quantize(images={options.images})",)
    report = build(Recipe(model, passes, f"fastest(among={among!r})"), out, measure=False)
    artifact = fxopt.load(out)
    return lambda arrays: [artifact(*arrays)], report.choice.chosen


def inductor(workload: Workload) -> Run:
    """torch.compile under autocast, compiled for one image and then for any number."""
    compiled = torch.compile(workload.model())

    def run(arrays: list[Any]) -> list[Any]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return [compiled(*map(torch.from_numpy, arrays)).float().numpy()]

    return run


def ort_int8(workload: Workload, options: argparse.Namespace, folder: Path) -> Run:
    """quantize_static as its documentation says."""
    (folder / "ort").mkdir()
    path = folder / "ort" / "model.onnx"
    quantize_static(workload, options.images, path)
    return onnx_runner(path, options.threads, "all", True)


def nncf_int8(workload: Workload, options: argparse.Namespace, plain: Path) -> Run:
    """nncf.quantize on the fp32 model, with the preset for transformers where the model is one."""
    import nncf
    import openvino

    def images() -> Iterator[Any]:
        for args in workload.calibration(options.images, "nncf"):
            yield from (image[None].numpy() for image in args[0])

    model = openvino.Core().read_model(plain)
    kind = nncf.ModelType.TRANSFORMER if "vit" in workload.name else None
    with contextlib.redirect_stdout(io.StringIO()), open(os.devnull, "w") as void, contextlib.redirect_stderr(void):
        quantized = nncf.quantize(model, nncf.Dataset(list(images())), subset_size=options.images, model_type=kind)
    path = plain.with_name("nncf.xml")
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return openvino_runner(path, properties(options.threads, "auto", "latency"))


if __name__ == "__main__":
    main()
