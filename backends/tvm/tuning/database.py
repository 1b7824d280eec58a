"""Trials in a file: one line of JSON each, appended, so that a process killed at any moment loses only the trial in flight.

A line is written at once, under a lock, and forced to the disk; several processes may write. SQLite would keep these
promises too, but a damaged file would be lost as a whole, where here a damaged line is skipped.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from fxopt.backends.tvm.machine.processor import Processor
from fxopt.backends.tvm.tiling.task import Tile
from fxopt.backends.tvm.tuning.trial import TaskRecord, Trial
from fxopt.support.cache_folder import cache_folder
from fxopt.support.line_log import append_line
from fxopt.support.observed import reads_file

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Facts

SCHEDULES = 1
"""Version of the code that generates kernels from tiles, in the stamp of each trial. It is raised when the kernels of a task
change, or are timed in another way: then earlier seconds no longer count. Text and names may change freely.
``tests/backends/tvm/test_schedule_version.py`` fails where kernels changed and this did not."""


def default_path() -> Path:
    """The user's own database, in the folder of all caches."""
    return cache_folder() / "tvm-tiles.jsonl"


class Database:
    """The trials for one processor and number of threads, in the file ``path``, which others may write to as well.

    Those on an ``emulated`` one are kept apart: their times say nothing about a real one.
    ``notes`` lists unused lines: damaged ones, and trials of another TVM or of other schedules.
    """

    def __init__(self, path: Path, processor: Processor, threads: int, *, emulated: bool = False) -> None:
        self.path = path
        self.stamp = {
            "on": _describe(processor, threads, emulated),
            "tvm": importlib.metadata.version("apache-tvm"),
            "schedules": SCHEDULES,
        }
        self.notes: list[str] = []
        self._records: dict[str, TaskRecord] = {}
        self._read()

    def __getitem__(self, key: str) -> TaskRecord:
        return self._records.setdefault(key, TaskRecord())

    def tiles(self) -> dict[str, Tile]:
        """The best tile of each task that was timed, by the task's key."""
        return {key: record.best for key, record in self._records.items() if record.best is not None}

    def add(self, key: str, trial: Trial) -> None:
        """Append a trial. Raises OSError where it cannot be written as a whole; the file then does not change."""
        values: Facts = {"task": key, **self.stamp, "tile": trial.tile.to_dict(), "seed": trial.seed}
        if trial.failed:
            values["failed"] = trial.failed
        else:
            values |= {"seconds": trial.seconds, "won": trial.won}
            if trial.rival is not None:
                values |= {"rival": trial.rival.to_dict(), "rival_seconds": trial.rival_seconds}
        append_line(self.path, json.dumps(values).encode())
        self[key].add(trial)

    def _read(self) -> None:
        reads_file(self.path)
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            self.notes.append(f"{self.path} cannot be read: {error.strerror}")
            return
        damaged: list[int] = []
        others: set[str] = set()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                if len(line) > _LONGEST:
                    raise ValueError("no trial is so long")
                values = json.loads(line)
                key, trial = values["task"], _trial(values)
                other = next((name for name in ("tvm", "schedules") if values[name] != self.stamp[name]), None)
                if type(key) is not str:
                    raise TypeError("the name of a task is text")
                if values["on"] != self.stamp["on"]:
                    continue
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
                damaged.append(number)
                continue
            if other:
                others.add(f"TVM {values['tvm']}" if other == "tvm" else "other schedules than these")
            else:
                self[key].add(trial)
        if damaged:
            shown = ", ".join(map(str, damaged[:5])) + (" …" if len(damaged) > 5 else "")
            count = f"{len(damaged)} damaged line{'s' if len(damaged) > 1 else ''}"
            self.notes.append(f"{self.path.name}: {count} skipped: {shown}")
        self.notes += [f"{self.path.name}: trials of {other} are not used" for other in sorted(others)]


_LONGEST = 100_000
"""Bytes of the longest line that is read."""
_RANGES = {
    "rows": (1, 256), "vectors": (1, 64), "unroll": (1, 64), "lines": (0, 65536), "chunk": (0, 65536), "winograd": (0, 8),
}  # fmt: skip
"""Ranges of a tile's fields; tuning tries smaller ones."""
_MOST_CODE = 4096
"""Vector instructions of a step that a tile may have: LLVM needs minutes for more."""


def _trial(values: Facts) -> Trial:
    """The trial of a line. Raises ValueError, TypeError or KeyError for a line that is no trial."""
    rival = _tile(values["rival"]) if "rival" in values else None
    seconds = None if "failed" in values else _seconds(values["seconds"])
    beside = _seconds(values["rival_seconds"]) if rival else None
    failed, won, seed = values.get("failed", ""), values.get("won", False), values["seed"]
    if type(failed) is not str or type(won) is not bool or type(seed) is not int:
        raise TypeError("not the fields of a trial")
    return Trial(_tile(values["tile"]), seconds, rival, beside, won, failed, seed)


def _tile(values: Facts) -> Tile:
    for name, value in values.items():
        low, high = _RANGES[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} of a tile is {low} to {high}")
    tile = Tile(**values)
    if tile.rows * tile.vectors * tile.unroll > _MOST_CODE:
        raise ValueError("a tile of too much code")
    return tile


def _seconds(value: object) -> float:
    if type(value) not in (int, float) or not 0 < float(value) < math.inf:  # type: ignore[arg-type]
        raise ValueError("seconds are a positive number")
    return float(value)  # type: ignore[arg-type]


def _describe(processor: Processor, threads: int, emulated: bool) -> str:
    """The machine that the seconds depend on; with the number of threads, as the best tile for one may leave others idle."""
    words = ["emulated"] * emulated + [processor.triple, processor.mcpu, *processor.mattr]
    return " ".join([*words, f"l{processor.lanes} r{processor.registers} c{processor.cores} t{threads}"])
