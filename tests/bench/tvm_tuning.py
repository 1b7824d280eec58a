"""The tuning of the backend ``tvm``: trials per second beside stock MetaSchedule, what the database saves, and what is won.

::

    python tests/bench/tvm_tuning.py                                    # resnet18, then resnet34 from the same database
    python tests/bench/tvm_tuning.py --model mobilenet_v2 --sibling mnasnet1_0 --seconds 120 --no-stock

*Trials per second.* The same kernels for both: those of the model with the tiles by rule, without loops, as MetaSchedule
takes them. It runs as it comes, with its own builder, runner, search and space, but without a cost model where xgboost is
not installed, which only makes it quicker, and with more patience: on two cores its builders may take longer to start than
the 30 seconds it gives them, and then no trial succeeds. The ``--tasks`` that take longest get equally many trials from it,
in one batch each, which is what it does best. Both count from the call to the return, starting processes included, and use the
machine's cores as they come.
Its space is another, so its kernels may run longer than ours.

*Database.* The model is tuned for ``--seconds`` from nothing, then built twice from the database; the sibling is built from
it as well. What is saved is the time that the trials of the tasks that the sibling finds took.

*Won.* The model built by rule and from the database, in interleaved blocks with pauses; ratios within a round.

Batch norms are folded. Needs the extras tvm and zoo, and a C++ compiler.
"""

from __future__ import annotations

import argparse
import functools
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from tvm_speed import cost_model, patient_builder, program_of

from fxopt import Program
from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm.compile import choose_tiles
from fxopt.backends.tvm.frontend.from_program import import_program
from fxopt.backends.tvm.machine.processor import processor_of
from fxopt.backends.tvm.tiling.task import Choices, Tile, candidates
from fxopt.backends.tvm.tuning.database import Database
from fxopt.backends.tvm.tuning.search import search
from fxopt.driver.lower import legalized, lower
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="resnet18", help="a name of torchvision's, after 'pruned ' or not (%(default)s)"
    )
    parser.add_argument("--sibling", default="resnet34", help="a model that shares layers with it (%(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of tuning (%(default)s)")
    parser.add_argument("--tasks", type=int, default=3, help="that trials are counted on (%(default)s)")
    parser.add_argument("--trials", type=int, default=96, help="of ours and of MetaSchedule, to count (%(default)s)")
    parser.add_argument("--threads", type=int, default=host().cores, help="that kernels run in (%(default)s)")
    parser.add_argument("--rounds", type=int, default=31, help="timed blocks of each build (%(default)s)")
    parser.add_argument("--stock", action="store_true", default=True)
    parser.add_argument("--no-stock", dest="stock", action="store_false", help="leave MetaSchedule out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        if options.stock:
            count_trials(options, Path(folder))
        save_and_win(options, Path(folder))


def count_trials(options: argparse.Namespace, folder: Path) -> None:
    """Trials per second of both, one after the other."""
    choices = heaviest(choices_of(program_of(options.model)), options.tasks)
    database = Database(folder / "count.jsonl", choices.processor, options.threads)
    begun = time.perf_counter()
    done = search(choices, database, options.threads, 3600.0, options.trials, 0)
    ours = done.done / (time.perf_counter() - begun)
    import tvm.s_tir.tensor_intrin  # noqa: F401 - a minute of importing that is not counted

    begun = time.perf_counter()
    made = stock(choices, options.trials, folder)
    theirs = made / (time.perf_counter() - begun)
    print(f"{len(choices.tasks)} tasks of {options.model}, {options.threads} threads")
    print(f"ours: {done.done} trials, {done.failed} failed, {ours:.2f} a second")
    print(f"MetaSchedule: {made} trials, {theirs:.2f} a second; ours ÷ MetaSchedule: {ours / theirs:.1f}", flush=True)


def heaviest(choices: Choices, count: int) -> Choices:
    """The tasks with the most multiply-adds in the model."""

    def cost(task: Any) -> float:
        _, weight, result = [math.prod(map(int, t.shape)) for t in task.kernel.tensors(Tile(1, 1))]
        return choices.uses[task.key] * result * weight / task.vectors

    few = Choices(choices.processor)
    for task in sorted(choices.tasks.values(), key=cost, reverse=True)[:count]:
        few(task)
    return few


def stock(choices: Choices, trials: int, folder: Path) -> int:
    """Let MetaSchedule tune the same kernels; return how many trials it made."""
    import tvm
    from tvm import te
    from tvm.s_tir import meta_schedule

    kernels = {}
    for i, task in enumerate(choices.tasks.values()):
        tensors = task.kernel.tensors(candidates(task, choices.processor)[0])
        kernels[f"kernel{i}"] = te.create_prim_func(tensors).with_attr("global_symbol", f"kernel{i}")
    target = tvm.target.Target(choices.processor.describe() | {"num-cores": host().cores})
    counted = Count()
    meta_schedule.tir_integration.tune_tir(
        tvm.IRModule(kernels), target, str(folder / "stock"), trials, num_trials_per_iter=max(1, trials // len(kernels)),
        builder=patient_builder(),
        cost_model=cost_model(), measure_callbacks=counted.callbacks(), seed=1,
    )  # fmt: skip
    return counted.made


class Count:
    """Counts the trials that MetaSchedule made, failed ones too, beside what it does by itself after each batch."""

    made = 0

    def callbacks(self) -> list[Any]:
        """Callbacks for it."""
        from tvm.ir.utils import derived_object
        from tvm.s_tir.meta_schedule import measure_callback

        count = self

        @derived_object
        class Counting(measure_callback.PyMeasureCallback):
            """Counts."""

            def apply(self, scheduler: Any, task_id: int, candidates: Any, built: Any, ran: Any) -> None:
                count.made += len(built)

        return [
            Counting(),
            measure_callback.AddToDatabase(),
            measure_callback.RemoveBuildArtifact(),
            measure_callback.UpdateCostModel(),
        ]


def save_and_win(options: argparse.Namespace, folder: Path) -> None:
    """Tune, build twice and a sibling, and time the builds."""
    backend = Tvm(threads=options.threads, database=str(folder / "tiles.jsonl"))
    program = program_of(options.model)
    seconds, plain = built(Tvm(threads=options.threads, database=""), program, folder / "rule")
    print(f"{options.model} built by rule in {seconds:.1f} s")
    begun = time.perf_counter()
    backend.tune(legalized(program, backend, host()), host(), options.seconds)
    tuned = time.perf_counter() - begun
    for time_of in ("first", "second"):
        seconds, found = built(backend, program, folder / time_of)
        rows = found.manifest.facts
        print(f"{options.model}, {time_of} build after {tuned:.0f} s of tuning: {seconds:.1f} s; {rows['notes'][0]}")
    all_trials = sum(row["trials"] for row in rows["tuned"].values())
    runs = {"rule": plain, "database": found}
    arrays = [leaf.numpy() for leaf in program.example_leaves()]
    times = interleave({name: functools.partial(run, *arrays) for name, run in runs.items()}, blocks=options.rounds)
    print(f"by rule {times['rule'].ms} ms, from the database {times['database'].ms} ms,", end=" ")
    print(f"database ÷ rule {times['database'].ratio(times['rule'])}; {all_trials} trials, gains of tasks", end=" ")
    print(*sorted((row["gain"] for row in rows["tuned"].values()), reverse=True))
    seconds, found = built(backend, program_of(options.sibling), folder / "sibling")
    rows = found.manifest.facts
    shared = sum(row["trials"] for row in rows["tuned"].values())
    print(f"{options.sibling}, first build: {seconds:.1f} s; {rows['notes'][0]}")
    print(f"  {shared} trials found in the database, {tuned * shared / max(1, all_trials):.0f} s of tuning saved")


def built(backend: Tvm, program: Program, folder: Path) -> tuple[float, Any]:
    """Seconds of a build, and the artifact."""
    folder.mkdir()
    begun = time.perf_counter()
    artifact = lower(program, backend, host(), folder)[1]
    return time.perf_counter() - begun, artifact


def choices_of(program: Program) -> Choices:
    """The tasks of a program."""
    choices = Choices(processor_of(host()))
    choose_tiles(import_program(legalized(program, Tvm(), host())), choices)
    return choices


if __name__ == "__main__":
    main()
