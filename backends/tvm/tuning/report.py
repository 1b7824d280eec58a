"""The part of a build's report about the origin of its tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tiling.task import Choices
from fxopt.backends.tvm.tuning.database import Database

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Facts


def tuning_report(choices: Choices, database: Database | None) -> Facts:
    """The trials, microseconds and gain of each task whose tile is from the database; how many are not, as a note."""
    tasks: Facts = {}
    for key in sorted(choices.chosen):
        record = database[key] if database else None
        if record and record.best is not None and key in choices.tuned:
            failed = sum(bool(trial.failed) for trial in record.trials)
            row = {
                "trials": len(record.trials),
                "us": round(record.seconds * 1e6, 1),
                "gain": round(1 / record.ratio, 3),
            }
            tasks[key] = row | ({"failed": failed} if failed else {})
    measured, every = len(tasks), len(choices.chosen)
    if not every:
        text = "there is nothing to tune: no convolution and no product in tiles"
    elif not measured:
        text = f"built from templates: the tiles of all {every} tasks are chosen by rule, none was measured"
    else:
        text = f"{measured} of {every} tasks have tiles that were measured, the others are chosen by rule"
    return {"tuned": tasks, "notes": [text, *_winograd_note(choices), *(database.notes if database else ())]}


def _winograd_note(choices: Choices) -> list[str]:
    """The cost of Winograd in memory."""
    count, more = 0, 0
    for key, tile in choices.chosen.items():
        for way in choices.tasks[key].winograd_options:
            if way.side == tile.winograd:
                count += choices.uses[key]
                more += choices.uses[key] * way.extra_weight_bytes
    if not count:
        return []
    text = f"{count} convolution(s) are computed by minimal filtering, and their weights take {more / 1e6:.1f} MB more"
    return [f"{text}; tvm(winograd=False) saves that"]
