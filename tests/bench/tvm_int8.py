"""int8 in the backend ``tvm``, beside ONNX Runtime's int8, as ``quantize`` prepares the model for each, and NNCF's.

::

    python tests/bench/tvm_int8.py                                     # the six models of the table
    python tests/bench/tvm_int8.py --models resnet18 digits --threads 1 --without amx-int8 --tune 60
    python tests/bench/tvm_int8.py --threads 1 --without avx512f avx512-vnni avx-vnni amx-int8    # as on AVX2

For each model, with random weights and randomised statistics (digits: trained), batch 1: quantized on the same images with
the placement that each backend wants, without any search and after ``--tune`` seconds of it; by NNCF on the same images,
run by OpenVINO, where both are installed. All are timed in one run, in interleaved blocks with pauses; the ratio is taken
within each round, and its median and quartiles are shown. Below 1 is faster than ONNX Runtime, or than OpenVINO. SQNR is
that of each artifact against the float model, and in brackets of eager running the same quantized program: the three should
be alike. ``--without`` builds for a processor that lacks features, which nothing keeps the peers from using: ratios to them
are left out then, and that to our own float is for the same processor. The table is written as markdown, after each model.
Needs the extras onnx, tvm and zoo, and a C++ compiler.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastest import nncf_int8
from tvm_speed import MODELS, backends

from fxopt import Pipeline, Program, Workload
from fxopt.backend import find_backend
from fxopt.driver.lower import legalized, lower
from fxopt.numerics.error_metrics import sqnr
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host
from fxopt.workload import find_workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=MODELS, help="digits, or names of torchvision's, after 'pruned ' or not"
    )
    parser.add_argument("--threads", type=int, default=host().cores, help="threads of every candidate (%(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="timed blocks of each candidate (%(default)s)")
    parser.add_argument("--images", type=int, default=32, help="calibration images (%(default)s)")
    parser.add_argument("--tune", type=float, default=0.0, help="seconds of search for each model (none)")
    parser.add_argument("--without", nargs="*", default=(), help="features that the target lacks, e.g. amx-int8")
    parser.add_argument("--out", type=Path, default=Path("build/tvm_int8.md"), help="the table (%(default)s)")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"int8, {options.threads} threads, batch 1, {options.rounds} rounds; medians (quartiles).",
        "",
        f"| model | ORT int8, ms | ours by rule, ms | ÷ ORT | tuned for {options.tune:.0f} s ÷ ORT "
        "| best ÷ NNCF → OpenVINO | by rule ÷ our float | by | integer, float | SQNR ORT (eager), dB | ours (eager), dB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
            lines.append(compare(name, options, Path(folder)))
        print(lines[-1], flush=True)
        options.out.write_text("\n".join(lines) + "\n")
    print(options.out.read_text())


def compare(name: str, options: argparse.Namespace, folder: Path) -> str:
    """A line of the table."""
    architecture = name.removeprefix("pruned ")
    workload = find_workload(architecture if architecture == "digits" else f"torchvision:{architecture}")
    pruning = "" if architecture == name else "prune_channels(ratio=0.5, by='l1'), "
    target = host()
    if options.without:
        target = dataclasses.replace(target, cpu="generic", features=target.features - set(options.without))
    runs: dict[str, Callable[[], Any]] = {}
    noise, facts = {}, {}
    for kind, backend in backends(options, folder).items():
        where: dict[str, Any] = {"watchers": (), "workload": workload, "target": target, "backend": backend}
        small = Pipeline.parse(f"{pruning}fold_batch_norm").run(workload.capture(), **where).program
        program = Pipeline.parse(f"quantize(images={options.images})").run(small, **where).program
        if kind == "tuned":
            backend.tune(legalized(program, backend, target), target, options.tune)
        (folder / kind).mkdir()
        _, artifact = lower(program, backend, target, folder / kind)
        inputs = program.example_leaves()
        runs[kind] = functools.partial(
            backend.load(folder / kind, artifact.manifest), [leaf.numpy() for leaf in inputs]
        )
        exact, eager, got = small(*inputs), program(*inputs), torch.from_numpy(runs[kind]()[0])
        noise[kind] = f"{sqnr([exact], [got]):.1f} ({sqnr([exact], [eager]):.1f})"
        facts[kind] = artifact.manifest.facts
    backend, plain = find_backend(f"tvm(threads={options.threads}, database='')"), folder / "float tvm"
    plain.mkdir()
    manifest = lower(small, backend, target, plain)[1].manifest
    runs["float"] = functools.partial(backend.load(plain, manifest), [leaf.numpy() for leaf in inputs])
    if not options.without:
        runs |= peer(small, workload, options, folder)
    times = interleave(runs, blocks=options.rounds)
    best = "tuned" if options.tune else "rule"
    by_peer = str(times[best].ratio(times["nncf"])) if "nncf" in runs else "–"
    made = facts[best]
    by_rule, tuned = (
        str(times[kind].ratio(times["onnx"])) if kind in times and not options.without else "–"
        for kind in ("rule", "tuned")
    )
    return (
        f"| {name} | {times['onnx'].ms} | {times['rule'].ms} | **{by_rule}** | **{tuned}** | {by_peer} "
        f"| {times['rule'].ratio(times['float'])} "
        f"| {made['integer_instruction']} | {made['integer_contractions']}, {made['float_contractions']} "
        f"| {noise['onnx']} | {noise[best]} |"
    )


def peer(program: Program, workload: Workload, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What NNCF makes of the float program, by OpenVINO; nothing where one of them is missing."""
    if any(importlib.util.find_spec(name) is None for name in ("nncf", "openvino")):
        return {}
    (folder / "float").mkdir()
    lower(program, find_backend("onnx"), host(), folder / "float")
    run = nncf_int8(workload, options, folder / "float" / "model.onnx")
    return {"nncf": functools.partial(run, [leaf.numpy() for leaf in program.example_leaves()])}


if __name__ == "__main__":
    main()
