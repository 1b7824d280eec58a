"""A converter whose packages conflict with fxopt's, in a virtual environment of its own.

A backend's converter may pin another pydantic, numpy or TensorFlow than fxopt needs. It then lives in an environment that the
user makes once, and a script of the backend's package runs there: ``python -I SCRIPT MODEL OUT FACTS``. It reads the
program's file ``MODEL``, writes the artifact's files into the folder ``OUT``, and facts for the report as a JSON object into
``FACTS``. What it cannot convert it says by ``{"error": …, "way_out": …}`` there, and exits with 1. The artifact's runtime must
install beside fxopt, as it is loaded in this process.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxopt.errors import BackendError, ResourceError
from fxopt.support.scratch import scratch_folder

_log = logging.getLogger(__name__)
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Variables of this process's environment that would bring its packages into the other."""


@dataclass(frozen=True)
class Environment:
    """The environment ``name``, in which pip installs ``requirements``."""

    name: str
    requirements: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """In ``$FXOPT_ENVIRONMENTS``, or in ``fxopt/environments`` of ``$XDG_DATA_HOME`` or of ``~/.local/share``."""
        if own := os.environ.get("FXOPT_ENVIRONMENTS"):
            return Path(own) / self.name
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
        return Path(data) / "fxopt/environments" / self.name

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin/python"

    def missing(self) -> str | None:
        """That the environment is not there, with the commands that make it; None if it is."""
        if self.python.exists():
            return None
        folder = shlex.quote(str(self.folder))
        wanted = " ".join(shlex.quote(requirement) for requirement in self.requirements)
        return f"the environment of its converter is missing: python3 -m venv {folder} && {folder}/bin/pip install {wanted}"

    def convert(self, script: Path, model: Path, out: Path) -> dict[str, Any]:
        """Run a script there on the file ``model``, for files in the folder ``out``; return its facts.

        Raises BackendError with what the script refuses, or with the last line that it printed where it crashed, and
        ResourceError where the system ended it, as it does for memory.
        """
        if reason := self.missing():
            raise BackendError(reason)
        others = {name: value for name, value in os.environ.items() if name not in _OURS}
        with scratch_folder() as scratch:
            told = scratch / "facts.json"
            command = [str(self.python), "-I", str(script), str(model), str(out), str(told)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=others, check=False)
            facts = self._read(told)
        if done.returncode == -signal.SIGKILL:
            raise ResourceError(
                f"the converter in {self.folder} was killed, as the system does where memory is at its end",
                way_out="end other programs, or take a machine with more",
            )
        if "error" in facts:
            raise BackendError(str(facts["error"]), way_out=facts.get("way_out"))
        if done.returncode != 0:
            _log.debug("the converter in %s printed\n%s", self.folder, done.stderr)
            lines = done.stderr.strip().splitlines()
            raise BackendError(
                f"the converter in {self.folder} failed with exit code {done.returncode}: "
                f"{lines[-1] if lines else 'it printed nothing'}",
                way_out="build with -v to see all that it printed",
            )
        return facts

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.exists():
            return {}
        try:
            facts = json.loads(path.read_text())
        except ValueError as error:
            raise BackendError(f"the converter in {self.folder} wrote facts that are no JSON: {error}") from error
        if not isinstance(facts, dict):
            raise BackendError(f"the converter in {self.folder} wrote facts that are no JSON object")
        return facts
