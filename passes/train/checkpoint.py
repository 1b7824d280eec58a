"""Where training stands after an epoch, in a file that is whole or not there."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from fxopt.errors import UsageError
from fxopt.ir.program import Program
from fxopt.passes.train.options import TrainOptions
from fxopt.workload import Workload


class Checkpoint:
    """The file of one training: of this program, with these options, on this workload."""

    def __init__(self, program: Program, workload: Workload, how: TrainOptions) -> None:
        said = f"{program.fingerprint()} {how} {workload.name}"
        self._key = hashlib.sha256(said.encode()).hexdigest()
        self._path = Path(how.checkpoint) / f"{how.name}-{self._key[:16]}.pt" if how.checkpoint else None
        self._who = how.name

    def read(self) -> dict[str, Any] | None:
        """What was saved last; None where nothing was. Raises UsageError for a file that is damaged."""
        if self._path is None or not self._path.exists():
            return None
        try:
            found = torch.load(self._path, weights_only=True)
            if found["key"] == self._key:
                return dict(found["state"])
            problem = "it is of another program, or of other options"
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            problem = f"it cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise UsageError(f"{self._who}: checkpoint {self._path}: {problem}", way_out="delete it to begin anew")

    def write(self, state: dict[str, Any]) -> None:
        """Save beside and rename, so that a process killed at any moment leaves the last one whole. Raises UsageError."""
        if self._path is None:
            return
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                torch.save({"key": self._key, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise UsageError(f"{self._who}: checkpoint {self._path} cannot be written: {error}") from error
