"""What MetaSchedule would gain in the backend ``tvm`` for kernels that it has no templates for: pools, norms, softmax, moves.

::

    python tests/bench/tvm_rest.py                                     # vit_b_16 in int8, where these kernels take most
    python tests/bench/tvm_rest.py --model resnet18 --float --trials 64

The model's kernels that are no convolution and no product, for a batch of the example's size. The ``--kernels`` that take
longest are tuned by MetaSchedule, with ``--trials`` each, and timed beside those with our loops, by rule, in interleaved
blocks in one run. Shown are the times of all, and what the whole model would gain if for each kernel the faster were taken.
Needs the extras tvm and zoo, and a C++ compiler.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvm_speed import cost_model, of_one_size, patient_builder, program_of, stock_target

from fxopt import Pipeline, Program
from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm.compile import kernels_of
from fxopt.backends.tvm.frontend.from_program import import_program
from fxopt.backends.tvm.machine.processor import processor_of
from fxopt.backends.tvm.ops.block_names import SUMS
from fxopt.backends.tvm.runtime import use_threads
from fxopt.backends.tvm.schedule.schedule_module import schedule_module
from fxopt.backends.tvm.tiling.task import Choices
from fxopt.backends.tvm.tir.pipeline import register_pipeline
from fxopt.driver.lower import legalized, lower
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host
from fxopt.testing import small_workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_b_16", help="digits, or a name of torchvision's (%(default)s)")
    parser.add_argument("--float", action="store_true", help="do not quantize it")
    parser.add_argument("--kernels", type=int, default=4, help="that are tuned (%(default)s)")
    parser.add_argument("--trials", type=int, default=32, help="of MetaSchedule for each (%(default)s)")
    parser.add_argument("--threads", type=int, default=host().cores, help="that kernels run in (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="timed blocks (%(default)s)")
    options = parser.parse_args()
    program = program_of(options.model)
    if not options.float:
        where = {"workload": small_workload(program), "target": host(), "backend": Tvm()}
        program = Pipeline.parse("quantize").run(program, watchers=(), **where).program
    compare(program, options)


def compare(program: Program, options: argparse.Namespace) -> None:
    """Print a line for each kernel that is tuned, and what it comes to."""
    use_threads(options.threads)
    model = model_seconds(program, options)
    functions, uses = rest(program)
    ours = {name: alone(schedule_module(module_of(f), processor_of(host())), f) for name, f in functions.items()}
    times = {name: timed.ms.median / 1000 for name, timed in interleave(ours, blocks=options.rounds).items()}
    total = sum(times[name] * uses[name] for name in times)
    print(f"{len(times)} kernels without a template take {total / model:.1%} of {1000 * model:.2f} ms")
    gained = 0.0
    for name in sorted(times, key=lambda name: -times[name] * uses[name])[: options.kernels]:
        with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
            try:
                theirs = tuned(functions[name], options, Path(folder))
            except Exception as error:  # of any kind, from TVM
                reason = next((line for line in str(error).splitlines() if line.startswith("Error message")), "")
                print(f"{uses[name]} x {name}: {1e6 * times[name]:.0f} us; MetaSchedule fails: {reason}", flush=True)
                continue
        both = interleave({"ours": ours[name], "theirs": theirs}, blocks=options.rounds)
        ratio = both["theirs"].ratio(both["ours"])
        gained += max(0.0, 1 - ratio.median) * times[name] * uses[name]
        print(f"{uses[name]} x {name}: {1e6 * times[name]:.0f} us; MetaSchedule ÷ ours {ratio}", flush=True)
    print(f"the faster of both would take {gained / model:.1%} from the model's time")


def model_seconds(program: Program, options: argparse.Namespace) -> float:
    """One call of the whole model."""
    arrays = [leaf.numpy() for leaf in program.example_leaves()]
    backend = Tvm(threads=options.threads, database="")
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        _, artifact = lower(program, backend, host(), Path(folder))
        run = functools.partial(backend.load(Path(folder), artifact.manifest), arrays)
        return interleave({"model": run}, blocks=options.rounds)["model"].ms.median / 1000


def rest(program: Program) -> tuple[dict[str, Any], Counter[str]]:
    """Kernels without a template, without loops, by name; and how often each is called."""
    from tvm import tirx
    from tvm.ir import Call
    from tvm.s_tir import Schedule

    ready = legalized(program, Tvm(), host())
    module = kernels_of(of_one_size(import_program(ready), program), Choices(processor_of(host())))
    uses: Counter[str] = Counter()
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, Call) and str(binding.value.op.name) == "relax.call_tir":
                uses[binding.value.args[0].name_hint] += 1
    found = {}
    for name, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and name.name_hint in uses:
            sch = Schedule(module_of(function))
            names = [sch.get(block).name_hint for block in sch.get_child_blocks(sch.get_sblock("root"))]
            if SUMS not in names:
                found[name.name_hint] = function
    return found, uses


def module_of(function: Any) -> Any:
    """A module that holds one kernel."""
    import tvm

    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def alone(module: Any, function: Any) -> Callable[[], object]:
    """What runs a kernel with our last steps on arrays of its own."""
    import tvm

    target = tvm.target.Target(processor_of(host()).describe())
    return called(tvm.compile(module, target=target, tir_pipeline=register_pipeline(host().cores)), function)


def called(built: Any, function: Any) -> Callable[[], object]:
    """A kernel with arrays."""
    import numpy as np
    import tvm

    random, arrays = np.random.default_rng(0), []
    for var in function.params:
        values = 3 * random.standard_normal([int(size) for size in var.ty.shape])
        arrays.append(tvm.runtime.tensor(np.abs(values).astype(str(var.ty.dtype.dtype))))
    return lambda: built["main"](*arrays)


def tuned(function: Any, options: argparse.Namespace, folder: Path) -> Callable[[], object]:
    """The best that MetaSchedule finds for a kernel. Raises what TVM raises where its rules do not fit, or find nothing."""
    import tvm
    from tvm.s_tir import meta_schedule

    module, target = module_of(function), stock_target()
    database = meta_schedule.tir_integration.tune_tir(
        module, target, str(folder), options.trials, num_trials_per_iter=16, builder=patient_builder(),
        cost_model=cost_model(), seed=1,
    )  # fmt: skip
    found = meta_schedule.tir_integration.compile_tir(database, module, target)
    if found is None:
        raise RuntimeError("Error message: it found nothing that runs")
    return called(tvm.compile(found.mod, target=target), function)


if __name__ == "__main__":
    main()
