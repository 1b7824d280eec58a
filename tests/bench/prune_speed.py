"""How much of the MACs saved by pruning is saved on the clock, in ONNX Runtime, fp32 and int8.

    python tests/bench/prune_speed.py [--models resnet50 mobilenet_v2] [--macs 0.5 0.25] [--threads 2]

Each model is pruned to a share of its MACs, without and with widths rounded to the multiple that this machine's kernels
like, and built beside the dense one; all are timed interleaved in one run. Prints speed-up ÷ MAC ratio: 1 is all of it.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from fxopt import Pipeline, Program
from fxopt.backend import find_backend
from fxopt.driver.lower import lower
from fxopt.ir.cost import cost
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host
from fxopt.testing import small_workload
from fxopt.workload import find_workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "mobilenet_v2"])
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scope", default="layer")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "| model | precision | MACs left | multiple | latency ÷ dense | speed-up ÷ MAC ratio |",
        "| --- " * 6 + "|",
    ]
    for model in options.models:
        program = Pipeline.parse("clean_up").run(find_workload(f"torchvision:{model}").capture(), watchers=()).program
        for precision, rest in (("fp32", "fold_batch_norm"), ("int8", "fold_batch_norm, quantize")):
            for cells in rows(program, rest, options.macs, options.scope, options.threads):
                lines.append(f"| {' | '.join([model, precision, *cells])} |")
                print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))
    Path("build").mkdir(exist_ok=True)
    Path("build/prune_speed.md").write_text("\n".join(lines) + "\n")


def rows(program: Program, rest: str, shares: list[float], scope: str, threads: int) -> Iterator[list[str]]:
    """Build the dense model and every pruned one, time them side by side, and yield a row for each pruned one."""
    backend, workload = find_backend(f"onnx(threads={threads})"), small_workload(program)
    plans = {("1", "dense"): rest}
    for macs in shares:
        for multiple in ("1", "'target'"):
            prune = f"prune_channels(macs={macs}, scope='{scope}', multiple={multiple})"
            plans[multiple.strip("'"), f"{macs}"] = f"{prune}, {rest}"
    with tempfile.TemporaryDirectory() as folder:
        runs, left = {}, {}
        for i, (key, passes) in enumerate(plans.items()):
            done = Pipeline.parse(passes).run(program, watchers=(), workload=workload, backend=backend, target=host())
            place = Path(folder) / str(i)
            place.mkdir()
            _, built = lower(done.program, backend, host(), place, workload=workload)
            runs[" ".join(key)] = functools.partial(built, *program.args)
            left[" ".join(key)] = cost(done.program).macs / cost(program).macs
        times = interleave(runs, blocks=15)
    for key in list(runs)[1:]:
        ratio = times[key].ratio(times["1 dense"])
        yield [f"{left[key]:.3f}", key.split(" ")[0], str(ratio), f"{left[key] / ratio.median:.2f}"]


if __name__ == "__main__":
    main()
