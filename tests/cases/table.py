"""A table of one row a model, each kept in a file of its own so that a run of some models keeps the rows of the others."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_row(table: Path, columns: Sequence[str], found: dict[str, Any]) -> None:
    """Keep the row of ``found["model"]``, and write the table of all rows."""
    rows = table.with_suffix("")
    rows.mkdir(parents=True, exist_ok=True)
    (rows / f"{re.sub(r'[^a-z0-9_]+', '_', found['model'])}.json").write_text(json.dumps(found))
    lines = [json.loads(path.read_text()) for path in sorted(rows.glob("*.json"))]
    cells = [[str(line.get(column, "")).replace("|", "/") for column in columns] for line in lines]
    text = [f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *cells]]
    table.write_text("\n".join(text) + "\n")
