"""How near the cycles that the backend tvm estimates come to the time that its models take.

::

    python tests/bench/tvm_estimate.py                      # this processor, and AVX2 and AVX-512 where it has them
    python tests/bench/tvm_estimate.py --targets host --int8

Models of a hundredfold range of size, glyphs pruned and split too, are built by rule for each target, with one thread, and timed
interleaved in one run. Printed are the nanoseconds of each estimated cycle, how far they are from the median of all models of the
target, and Kendall's tau between estimate and time. A search uses the estimate on targets that it cannot time, where only ratios
between models matter.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from fxopt import Pipeline, Program, Workload
from fxopt.backend import find_backend
from fxopt.backend.backend import ESTIMATED_CYCLES
from fxopt.driver.lower import lower
from fxopt.runtime.interleaved import Call, time_artifacts
from fxopt.target import Target, find_target
from fxopt.target.detect import host
from fxopt.workload import find_workload

MODELS = ("glyphs", "digits", "torchvision:resnet18", "torchvision:mobilenet_v2", "small_vit")
PASSES = {
    "glyphs, .6": "prune_channels(macs=0.6, scope='isomorphic', by='l1')",
    "glyphs, .35": "prune_channels(macs=0.35, by='l1')",
    "glyphs, .2": "prune_channels(macs=0.2, scope='global', by='l1')",
    "glyphs, .12": "prune_channels(macs=0.12, scope='isomorphic', by='l1')",
    "glyphs, split": "low_rank(form='spatial', macs=0.5)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=("host", "x86_64_v3", "x86_64_v4"))
    parser.add_argument("--int8", action="store_true", help="quantized")
    parser.add_argument("--blocks", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: find_workload(name) for name in MODELS}
    programs = {name: (work, work.capture()) for name, work in models.items()}
    for name, passes in PASSES.items():
        work, program = programs["glyphs"]
        programs[name] = work, Pipeline.parse(passes).run(program, workload=work, watchers=()).program
    for name in options.targets:
        target = dataclasses.replace(find_target(name), cores=1)
        if target.architecture == host().architecture and target.features <= host().features:
            show(name, target, programs, options)


def show(name: str, target: Target, programs: dict[str, tuple[Workload, Program]], options: argparse.Namespace) -> None:
    """The table of a target."""
    backend = find_backend("tvm(threads=1, database='')")
    passes = "quantize(images=32)" if options.int8 else "fold_batch_norm, clean_up"
    cycles: dict[str, float] = {}
    calls: dict[str, Call] = {}
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        for model, (work, program) in programs.items():
            if options.int8 and work.data is None:
                continue
            where = {"workload": work, "target": target, "backend": backend, "watchers": ()}
            made = Pipeline.parse(passes).run(program, **where).program  # type: ignore[arg-type]
            out = Path(folder) / model
            out.mkdir(parents=True)
            _, built = lower(made, backend, target, out, workload=work, verified=False)
            args, kwargs = built.random_inputs()
            cycles[model], calls[model] = built.manifest.facts[ESTIMATED_CYCLES], (built, tuple(args), kwargs)
        times = time_artifacts(calls, blocks=options.blocks, block_ms=10.0)
    each = {model: 1e6 * times[model].ms.median / cycles[model] for model in cycles}
    middle = float(np.median(list(each.values())))
    table = Table(
        "model", "estimated cycles", "ms", "ns a cycle", "off", title=f"{name}: {' '.join(sorted(target.features))}"
    )
    for model, ns in each.items():
        table.add_row(
            model, f"{cycles[model]:,.0f}", f"{times[model].ms.median:.3f}", f"{ns:.3f}", f"{ns / middle - 1:+.0%}"
        )
    Console(width=130).print(table)
    off = [abs(ns / middle - 1) for ns in each.values()]
    tau = kendalltau([cycles[m] for m in each], [times[m].ms.median for m in each]).statistic
    print(f"{name}: {np.mean(off):.1%} off on the mean, {max(off):.0%} at most; Kendall's tau {tau:.2f}", flush=True)


if __name__ == "__main__":
    main()
