"""Values by name in a file, one line appended for each, so that a kill loses only the last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fxopt.support.line_log import append_line


class Lines:
    """Values that were written with this ``key``; those of another key, and a torn line, are ignored."""

    def __init__(self, file: Path, key: str) -> None:
        self._file, self._key = file, key
        self.known: dict[str, Any] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                of, name, value = json.loads(line)
            except ValueError:
                continue
            if of == key:
                self.known[name] = value

    def add(self, name: str, value: Any) -> None:
        """Store a value as JSON."""
        self.known[name] = value
        append_line(self._file, json.dumps([self._key, name, value]).encode())
