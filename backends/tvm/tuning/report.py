"""What a build's report says about where its tiles come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tiling.task import Choices
from fxopt.backends.tvm.tuning.database import Database

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Facts


def account(choices: Choices, database: Database | None) -> Facts:
    """The trials, microseconds and gain of each task whose tile is from the database; how many are not, as a note."""
    tasks: Facts = {}
    for key in sorted(choices.made):
        known = database[key] if database else None
        if known and known.best is not None and key in choices.known:
            failed = sum(bool(trial.failed) for trial in known.trials)
            row = {"trials": len(known.trials), "us": round(known.seconds * 1e6, 1), "gain": round(1 / known.ratio, 3)}
            tasks[key] = row | ({"failed": failed} if failed else {})
    measured, every = len(tasks), len(choices.made)
    if not every:
        text = "there is nothing to tune: no convolution and no product in tiles"
    elif not measured:
        text = f"built from templates: the tiles of all {every} tasks are chosen by rule, none was measured"
    else:
        text = f"{measured} of {every} tasks have tiles that were measured, the others are chosen by rule"
    return {"tuned": tasks, "notes": [text, *_filtered(choices), *(database.notes if database else ())]}


def _filtered(choices: Choices) -> list[str]:
    """What minimal filtering costs in room."""
    count, more = 0, 0
    for key, tile in choices.made.items():
        for way in choices.tasks[key].filtered:
            if way.side == tile.winograd:
                count += choices.uses[key]
                more += choices.uses[key] * way.more_bytes
    if not count:
        return []
    text = f"{count} convolution(s) are computed by minimal filtering, and their weights take {more / 1e6:.1f} MB more"
    return [f"{text}; tvm(winograd=False) saves that"]
