"""Where training stands after an epoch, in a file that is whole or not there."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from fxopt.errors import UsageError, text_of
from fxopt.ir.program import Program
from fxopt.passes.train.options import TrainOptions
from fxopt.support.scratch import scratch_folder
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
            with zipfile.ZipFile(self._path) as archive:
                if broken := archive.testzip():  # torch takes tensors without looking at their checksums
                    raise zipfile.BadZipFile(f"the checksum of {broken} is wrong")
            found = torch.load(self._path, weights_only=True, map_location="cpu")
            if found["key"] == self._key:
                return dict(found["state"])
            problem = "it is of another program, or of other options"
        except Exception as error:  # zipfile, pickle and torch have many for bytes that are no checkpoint
            problem = f"it cannot be read: {text_of(error).partition(chr(10))[0] or type(error).__name__}"
        raise UsageError(f"{self._who}: checkpoint {self._path}: {problem}", way_out="delete it to begin anew")

    def write(self, state: dict[str, Any]) -> None:
        """Save beside and rename, so that a process killed at any moment leaves the last one whole. Raises UsageError."""
        if self._path is None:
            return
        # torch's own writer ends the whole process where the disk is full, so the archive is made in memory
        archive = io.BytesIO()
        torch.save({"key": self._key, "state": state}, archive)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(self._path.parent) as folder:
                beside = folder / self._path.name
                with beside.open("wb") as file:
                    file.write(archive.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(self._path)
        except OSError as error:
            raise UsageError(f"{self._who}: checkpoint {self._path} cannot be written: {error}") from error
