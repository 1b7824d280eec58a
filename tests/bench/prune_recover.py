"""Prune to a quarter of the MACs in rounds, fine-tune between them, quantize, and lower to ONNX.

    python tests/bench/prune_recover.py [--models digits glyphs] [--macs 0.25] [--rounds 3] [--epochs 8]

Each round prunes to an even share of the way, on the same captured graph, then trains it as a plain module for a few
epochs. Prints the metric on the held-out test split: dense fp32, after every round, and int8 in ONNX Runtime; and writes
build/prune_recover.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from fxopt import Pipeline, Program, as_module
from fxopt.backend import find_backend
from fxopt.cost import cost
from fxopt.lowering import lower
from fxopt.measure import interleave
from fxopt.models.train import fit
from fxopt.target import host
from fxopt.workload import Workload, find_workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["digits", "glyphs"])
    parser.add_argument("--macs", type=float, default=0.25, help="share of the MACs that is left (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of training after each round (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(2)
    columns = ("model", "dense", "pruned, not trained", "pruned, trained", "int8 in ORT", "MACs left")
    columns += ("file ÷ dense fp32", "latency ÷ dense fp32", "seconds")
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for name in options.models:
        lines.append(run(name, options.macs, options.rounds, options.epochs))
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))
    Path("build").mkdir(exist_ok=True)
    Path("build/prune_recover.md").write_text("\n".join(lines) + "\n")


def run(name: str, macs: float, rounds: int, epochs: int) -> str:
    workload = find_workload(name)
    data = workload.need_data(name)
    start = time.perf_counter()
    program = dense = Pipeline.parse("fold_constants").run(workload.capture()).program
    total, first = cost(dense).macs, None
    for i in range(1, rounds + 1):
        step = Pipeline.parse(
            f"prune_channels(macs={total * macs ** (i / rounds):.0f}, scope='isomorphic', by='taylor')"
        )
        program = step.run(program, workload=workload).program
        first = data.evaluate(program, "test") if first is None or i == rounds else first
        module = as_module(program)
        best = fit(module, data, epochs=epochs, batch_size=64, rate=2e-3, seed=i)
        module.load_state_dict(best)
        program = module.program()
        print(
            f"{name}: round {i}: MACs {cost(program).macs / total:.3f}, validation {data.evaluate(program, 'validation'):.4f}",
            flush=True,
        )
    trained = data.evaluate(program, "test")
    small = Pipeline.parse("clean_up, fold_batch_norm, quantize").run(
        program, workload=workload, backend=find_backend("onnx"), target=host()
    )
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        sizes, models = zip(
            *(_built(p, Path(folder) / key, workload) for key, p in (("dense", dense), ("small", small.program))),
            strict=True,
        )
        int8 = data.evaluate(models[1], "test")
        inputs = dense.args
        times = interleave({key: lambda m=m: m(*inputs) for key, m in zip(("dense", "small"), models, strict=True)})
    values = [data.evaluate(dense, "test"), first, trained, int8, cost(program).macs / total]
    cells = [
        name,
        *(f"{v:.4f}" for v in values),
        f"{sizes[1] / sizes[0]:.3f}",
        str(times["small"].ratio(times["dense"])),
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _built(program: Program, folder: Path, workload: Workload):  # type: ignore[no-untyped-def]
    folder.mkdir()
    _, built = lower(program, find_backend("onnx"), host(), folder, workload=workload)
    return sum(f.stat().st_size for f in folder.glob("model.onnx*")), built


if __name__ == "__main__":
    main()
