"""Trials a minute of a search with one worker and with two, on this machine's clock or on two devices behind a tracker.

::

    python tests/bench/search_workers.py                # all three, with a PostgreSQL and a tracker that are started here
    python tests/bench/search_workers.py --trials 60

Each is the same search of a model that trains in a moment (tests/cases/stripes.py), with a cache of its own, until so many
trials are done. The devices are two `fxopt serve` on this machine, each of which is given to one worker at a time. Columns:
trials, and seconds from the first one's beginning to the last one's end; trials a minute; how many recipes were run twice;
the share of all cores that was busy, and the share of the workers' time in which trials ran: what is left is asking the
database and waiting for others to time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
from rich.console import Console
from rich.table import Table

from fxopt.automl.records import Record, record_of
from fxopt.target.detect import host

sys.path.append(str(Path(__file__).parents[1]))  # the servers are those of the tests
from cases.network import tracker
from cases.postgres import cannot_start, postgres

CASE = Path(__file__).parents[1] / "cases" / "stripes.py"
SPACE = '[search]\npasses = ["prune_channels", "low_rank", "reconstruct", "quantize_weights"]\nbackends = ["onnx"]\n'


@contextlib.contextmanager
def devices(count: int, folder: Path) -> Iterator[str]:
    """So many devices on this machine behind one tracker; gives the file of a target with their address."""
    with tracker() as address, contextlib.ExitStack() as running:
        for number in range(count):
            log = (folder / f"device{number}.log").open("w")
            command = [sys.executable, "-m", "fxopt", "serve", f"{address}/board"]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            running.callback(process.wait)
            running.callback(process.terminate)
            while "serving at" not in Path(log.name).read_text():
                assert process.poll() is None, Path(log.name).read_text()
                time.sleep(0.1)
        here = host()
        features = ", ".join(f'"{name}"' for name in sorted(here.features))
        target = folder / "board.toml"
        target.write_text(
            f'triple = "{here.triple}"\ncpu = "{here.cpu}"\nfeatures = [{features}]\ncores = {here.cores}\n'
            f'address = "{address}/board"\n'
        )
        yield str(target)


def search(url: str, target: str, workers: int, trials: int, folder: Path) -> None:
    """Run so many workers on one study until it is done."""
    recipe = folder / "recipe.toml"
    recipe.write_text(f'model = "stripes"\nbackend = "onnx"\ntarget = "{target}"\n{SPACE}')
    running = []
    for number in range(workers):
        command = [
            sys.executable, "-m", "fxopt", "search", str(recipe), "--load", str(CASE), "--json",
            "-o", str(folder / f"worker{number}"), "--drop", "0.1", "--trials", str(trials), "--storage", url,
        ]  # fmt: skip
        log = (folder / f"worker{number}.log").open("w")
        cache = {"FXOPT_CACHE": str(folder / f"cache{number}")}
        running.append((log.name, subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **cache})))
    for log_name, process in running:
        if process.wait():
            raise SystemExit(Path(log_name).read_text())


def busy() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(workers: int, boards: int, trials: int) -> list[str]:
    """The cells of a row."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(postgres())
        target = stack.enter_context(devices(boards, folder)) if boards else "host"
        began, before = time.monotonic(), busy()
        search(url, target, workers, trials, folder)
        share = (busy() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)
        storage = optuna.storages.RDBStorage(url)
        (summary,) = optuna.get_all_study_summaries(storage)
        found = optuna.load_study(study_name=summary.study_name, storage=storage).trials
        done = [t for t in found if t.datetime_start and t.datetime_complete]
        storage.engine.dispose()
    seconds = (max(t.datetime_complete for t in done) - min(t.datetime_start for t in done)).total_seconds()  # type: ignore[type-var,operator]
    records: list[Record] = [record for t in done if (record := record_of(t)) is not None]
    ran = Counter(record.point for record in records if record.spent and record.seconds)
    climbing = sum(sum(record.spent.values()) for record in records if record.seconds) / seconds / workers
    return [
        f"{workers} with {boards} devices" if boards else str(workers), str(len(done)), f"{seconds:.0f}",
        f"{60 * len(done) / seconds:.1f}", str(sum(n - 1 for n in ran.values())), f"{share:.0%}", f"{climbing:.0%}",
    ]  # fmt: skip


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="of each search (%(default)s)")
    options = parser.parse_args()
    if reason := cannot_start():
        sys.exit(reason)
    table = Table()
    for column in ("workers", "trials", "seconds", "a minute", "run twice", "cores busy", "trials running"):
        table.add_column(column, justify="left" if column == "workers" else "right")
    for workers, boards in ((1, 0), (2, 0), (2, 2)):
        cells = measured(workers, boards, options.trials)
        print(*cells, flush=True)
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
