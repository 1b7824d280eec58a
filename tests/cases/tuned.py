"""A tuned TVM backend without tuning: a database that says which tile of each task is the best."""

from __future__ import annotations

from pathlib import Path

from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm.compile import choose_tiles
from fxopt.backends.tvm.frontend.from_program import import_program
from fxopt.backends.tvm.machine.processor import processor_of
from fxopt.backends.tvm.tiling.task import Choices, Task, Tile
from fxopt.backends.tvm.tuning.database import Database
from fxopt.backends.tvm.tuning.trial import Trial
from fxopt.ir.program import Program
from fxopt.target import Target


def tasks(program: Program, target: Target) -> dict[str, Task]:
    """The tasks of a program that has the form which TVM takes, by key."""
    choices = Choices(processor_of(target))
    choose_tiles(import_program(program), choices)
    return choices.tasks


def backend(path: Path, target: Target, tiles: dict[str, Tile], threads: int = 1) -> Tvm:
    """The backend whose builds for that target take these tiles, by the keys of their tasks."""
    database = Database(path, processor_of(target), threads)
    for key, tile in tiles.items():
        database.add(key, Trial(tile, seconds=1.0))
    return Tvm(threads=threads, database=str(path))
