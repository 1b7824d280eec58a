"""The tuning record of a task: its trials, and the best tile of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from fxopt.backends.tvm.tiling.task import Tile


@dataclass(frozen=True)
class Trial:
    """One tile of a task, tried: ``seconds`` per call, and those of the ``rival``, the best tile before; or why it ``failed``.

    ``won`` is whether it was clearly faster than the rival, timed in turns with it. The first trial has no rival.
    """

    tile: Tile
    seconds: float | None = None
    rival: Tile | None = None
    rival_seconds: float | None = None
    won: bool = False
    failed: str = ""
    seed: int = 0


@dataclass
class TaskRecord:
    """All trials of a task, and the ``best`` tile; ``ratio`` is its time over the first one's."""

    trials: list[Trial] = field(default_factory=list)
    best: Tile | None = None
    seconds: float = 0.0
    ratio: float = 1.0

    def add(self, trial: Trial) -> None:
        """Add a trial; a win counts over the present best tile."""
        self.trials.append(trial)
        if trial.seconds is None:
            return
        if trial.rival is None:
            if self.best is None:
                self.best, self.seconds = trial.tile, trial.seconds
            return
        if trial.rival == self.best and trial.rival_seconds:
            self.seconds = min(self.seconds, trial.rival_seconds)
        if trial.won and trial.rival == self.best and trial.rival_seconds:
            self.best, self.seconds = trial.tile, trial.seconds
            self.ratio *= trial.seconds / trial.rival_seconds

    def tried(self) -> set[Tile]:
        """Tiles that need not be tried again."""
        return {trial.tile for trial in self.trials}
