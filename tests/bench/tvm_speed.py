"""What the backend ``tvm`` compiles, without search and with, beside ONNX Runtime and stock TVM, in float32.

::

    python tests/bench/tvm_speed.py                                     # the six models of the table
    python tests/bench/tvm_speed.py --models resnet18 digits --rounds 5 --no-stock
    python tests/bench/tvm_speed.py --models resnet18 --tune 120 --stock-trials 256

For each model, with random weights and randomised statistics, batch 1: the backend ``tvm`` with the tiles that it chooses by
rule, and with those that ``--tune`` seconds of search find from an empty database; the backend ``onnx``; and the model as
TVM alone compiles it, untuned, and with ``--stock-trials`` of MetaSchedule for the whole model, which takes one size of
batch only. Ours and ONNX Runtime are timed in one run, in interleaved blocks with pauses, and stock TVM beside ONNX Runtime
in a run of three blocks, as it takes seconds a call untuned; the ratio is taken within each round, and its median and
quartiles are shown. Below 1 is faster than ONNX Runtime. The table is written as markdown, after each model. Needs the
extras onnx, tvm and zoo, and a C++ compiler.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fxopt import Pipeline, Program
from fxopt.backend import Backend, find_backend
from fxopt.driver.lower import legalized, lower
from fxopt.frontend.pt2 import export_program
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host
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
    parser.add_argument("--tune", type=float, default=0.0, help="seconds of search for each model (none)")
    parser.add_argument("--stock-trials", type=int, default=0, help="of MetaSchedule for each model (none)")
    parser.add_argument("--out", type=Path, default=Path("build/tvm.md"), help="the table (%(default)s)")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"float32, {options.threads} threads, batch 1, {options.rounds} rounds; medians (quartiles).",
        "",
        f"| model | ONNX Runtime, ms | ours by rule, ms | ÷ ORT | tuned for {options.tune:.0f} s ÷ ORT | trials "
        f"| untuned TVM ÷ ORT | TVM, {options.stock_trials} trials ÷ ORT | built in, s |",
        "|---|---|---|---|---|---|---|---|---|",
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
    seconds, facts = {}, {}
    for kind, backend in backends(options, folder).items():
        if kind == "tuned":
            backend.tune(legalized(program, backend, host()), host(), options.tune)
        start = time.perf_counter()
        (folder / kind).mkdir()
        _, artifact = lower(program, backend, host(), folder / kind)
        seconds[kind], facts[kind] = time.perf_counter() - start, artifact.manifest.facts
        runs[kind] = functools.partial(backend.load(folder / kind, artifact.manifest), arrays)
    times = interleave(runs, blocks=options.rounds)
    stock = {}
    if options.stock:
        stock["untuned"] = compiled(stock_module(program), options.threads)
    if options.stock_trials:
        stock["tuned"] = stock_tuned(stock_module(program), options, folder / "stock")
    slow = interleave({"onnx": runs["onnx"], **stock}, blocks=3) if stock else {}
    ratios = {kind: str(slow[kind].ratio(slow["onnx"])) for kind in stock}
    tuned = str(times["tuned"].ratio(times["onnx"])) if options.tune else "–"
    trials = sum(row["trials"] for row in facts["tuned"]["tuned"].values()) if options.tune else 0
    return (
        f"| {name} | {times['onnx'].ms} | {times['rule'].ms} | **{times['rule'].ratio(times['onnx'])}** | **{tuned}** "
        f"| {trials} | {ratios.get('untuned', '–')} | {ratios.get('tuned', '–')} | {seconds['rule']:.0f} |"
    )


def backends(options: argparse.Namespace, folder: Path) -> dict[str, Backend]:
    """ONNX Runtime; ours by rule; and ours with the tiles of a database of its own, where there is to be a search."""
    specs = {"onnx": f"onnx(threads={options.threads})", "rule": f"tvm(threads={options.threads}, database='')"}
    if options.tune:
        specs["tuned"] = f"tvm(threads={options.threads}, database={str(folder / 'tiles.jsonl')!r})"
    return {kind: find_backend(spec) for kind, spec in specs.items()}


def program_of(name: str) -> Program:
    """The model with batch norms folded, and half of its channels removed if its name begins with ``pruned``."""
    architecture = name.removeprefix("pruned ")
    workload = find_workload(architecture if architecture == "digits" else f"torchvision:{architecture}")
    passes = "fold_batch_norm" if architecture == name else "fold_batch_norm, prune_channels(ratio=0.5, by='l1')"
    return Pipeline.parse(passes).run(workload.capture(), watchers=(), workload=workload).program


def stock_module(program: Program) -> Any:
    """What TVM's own importer makes of it, for a batch of the example's size."""
    from tvm.relax.frontend.torch import from_exported_program

    return of_one_size(from_exported_program(export_program(program)), program)


def of_one_size(module: Any, program: Program) -> Any:
    """The module for the sizes of the program's example alone."""
    from tvm import relax

    sizes = {}
    for var, leaf in zip(module["main"].params, program.example_leaves(), strict=True):
        sizes |= {size: known for size, known in zip(var.ty.shape, leaf.shape, strict=True) if hasattr(size, "name")}
    return relax.transform.BindSymbolicVars(sizes, "main")(module)


def compiled(module: Any, threads: int) -> Callable[[], object]:
    """TVM's own way: its default pipeline, and nothing tuned."""
    import tvm
    from tvm import relax

    target = stock_target()
    with target:
        built = tvm.compile(relax.get_pipeline("zero")(module), target=target)
    return runner(built, module, threads)


def stock_tuned(module: Any, options: argparse.Namespace, folder: Path) -> Callable[[], object]:
    """TVM's own way with a search: MetaSchedule over all tasks of the model, without a cost model if xgboost is missing."""
    import tvm
    from tvm import relax
    from tvm.s_tir.meta_schedule import relax_integration

    folder.mkdir()
    target = stock_target()
    with target:
        kernels = relax.get_pipeline("zero")(module)
        database = relax_integration.tune_relax(
            kernels, {}, target, str(folder), options.stock_trials, num_trials_per_iter=16, builder=patient_builder(),
            cost_model=cost_model(), seed=1,
        )  # fmt: skip
        with database:
            kernels = relax.transform.MetaScheduleApplyDatabase()(kernels)
        return runner(tvm.compile(kernels, target=target), module, options.threads)


def patient_builder() -> Any:
    """MetaSchedule's own, which on two cores may take longer to start than the 30 seconds that it has by itself."""
    from tvm.s_tir.meta_schedule.builder import LocalBuilder

    return LocalBuilder(timeout_sec=180.0)


def cost_model() -> str:
    """MetaSchedule's, which needs xgboost; candidates by chance without."""
    return "xgb" if importlib.util.find_spec("xgboost") else "random"


def stock_target() -> Any:
    import tvm

    from fxopt.backends.tvm.machine.processor import processor_of

    return tvm.target.Target(processor_of(host()).describe() | {"num-cores": host().cores})


def runner(built: Any, module: Any, threads: int) -> Callable[[], object]:
    import numpy as np
    import tvm
    from tvm import relax

    from fxopt.backends.tvm.runtime import use_threads

    device, random = tvm.cpu(), np.random.default_rng(0)
    run = relax.VirtualMachine(built, device)["main"]
    shapes = [tuple(map(int, var.ty.shape)) for var in module["main"].params]
    inputs = [tvm.runtime.tensor(random.standard_normal(shape, np.float32)) for shape in shapes]
    use_threads(threads)
    return lambda: run(*inputs)


if __name__ == "__main__":
    main()
