"""What TVM compiles without any search, beside ONNX Runtime, in float32.

::

    python tests/bench/tvm_speed.py                                     # the six models of the table
    python tests/bench/tvm_speed.py --models resnet18 digits --rounds 5 --no-stock

For each model, with random weights and randomised statistics, batch 1: the backend ``tvm`` with the tiles that it chooses by
rule, the backend ``onnx``, and the model as TVM alone compiles it, untuned. The first two are timed in one run, in
interleaved blocks with pauses, and the third beside ONNX Runtime in a run of three blocks, as it takes seconds a call; the
ratio is taken within each round, and its median and quartiles are shown. Below 1 is faster than ONNX Runtime. The table is
written as markdown, after each model. Needs the extras onnx, tvm and zoo, and a C++ compiler.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fxopt import Pipeline, Program
from fxopt.backend import find_backend
from fxopt.lowering import lower
from fxopt.measure import interleave
from fxopt.storage import export_program
from fxopt.target import host
from fxopt.workload import find_workload

MODELS = ("resnet18", "resnet50", "mobilenet_v2", "vit_b_16", "pruned resnet18", "digits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=MODELS, help="digits, or names of torchvision's, after 'pruned ' or not"
    )
    parser.add_argument("--threads", type=int, default=host().cores, help="threads of every candidate (%(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="timed blocks of each candidate (%(default)s)")
    parser.add_argument("--stock", action=argparse.BooleanOptionalAction, default=True, help="time untuned TVM too")
    parser.add_argument("--out", type=Path, default=Path("build/tvm.md"), help="the table (%(default)s)")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"float32, {options.threads} threads, batch 1, no search, {options.rounds} rounds; medians (quartiles).",
        "",
        "| model | ONNX Runtime, ms | ours, ms | ours ÷ ORT | untuned TVM ÷ ORT | built in, s |",
        "|---|---|---|---|---|---|",
    ]
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
            lines.append(compare(name, options, Path(folder)))
        print(lines[-1], flush=True)
        options.out.write_text("\n".join(lines) + "\n")
    print(options.out.read_text())


def compare(name: str, options: argparse.Namespace, folder: Path) -> str:
    """A line of the table."""
    program = program_of(name)
    arrays = [leaf.numpy() for leaf in program.example_leaves()]
    runs: dict[str, Callable[[], object]] = {}
    seconds = {}
    for kind in ("onnx", "tvm"):
        start = time.perf_counter()
        backend = find_backend(f"{kind}(threads={options.threads})")
        (folder / kind).mkdir()
        _, artifact = lower(program, backend, host(), folder / kind)
        seconds[kind] = time.perf_counter() - start
        runs[kind] = functools.partial(backend.load(folder / kind, artifact.manifest), arrays)
    times = interleave(runs, blocks=options.rounds)
    stock = "–"
    if options.stock:
        slow = interleave({"onnx": runs["onnx"], "stock": untuned(program, options.threads)}, blocks=3)
        stock = str(slow["stock"].ratio(slow["onnx"]))
    return (
        f"| {name} | {times['onnx'].ms} | {times['tvm'].ms} | **{times['tvm'].ratio(times['onnx'])}** | {stock} "
        f"| {seconds['tvm']:.0f} |"
    )


def program_of(name: str) -> Program:
    """The model with batch norms folded, and half of its channels removed if its name begins with ``pruned``."""
    architecture = name.removeprefix("pruned ")
    workload = find_workload(architecture if architecture == "digits" else f"torchvision:{architecture}")
    passes = "fold_batch_norm" if architecture == name else "fold_batch_norm, prune_channels(ratio=0.5, by='l1')"
    return Pipeline.parse(passes).run(workload.capture(), watchers=(), workload=workload).program


def untuned(program: Program, threads: int) -> Callable[[], object]:
    """TVM's own way: its importer, its default pipeline, and nothing tuned."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    from fxopt.backends.tvm.processor import processor_of
    from fxopt.backends.tvm.runtime import use_threads

    target = tvm.target.Target(processor_of(host()).describe())
    module = from_exported_program(export_program(program))
    with target:
        built = tvm.compile(relax.get_pipeline("zero")(module), target=target)
    device = tvm.cpu()
    run = relax.VirtualMachine(built, device)["main"]
    inputs = [tvm.runtime.tensor(leaf.numpy()) for leaf in program.example_leaves()]
    use_threads(threads)
    return lambda: run(*inputs)


if __name__ == "__main__":
    main()
