"""The example in a pass's docstring: a ``before:`` and an ``after:`` block in the text form."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass
from typing import Any

_BLOCK = re.compile(
    r"^(?P<name>behind|before|after):[ \t]*(?P<inline>.*)\n(?P<body>(?:[ \t]+.*\n|[ \t]*\n)*)", re.MULTILINE
)


@dataclass(frozen=True)
class Example:
    """A program before and after a pass, as text; ``behind`` are passes that run first, for one that recovers from lossy
    ones.
    """

    before: str
    after: str
    behind: str = ""


def find_example(thing: Any) -> Example | None:
    """Read the first ``before:`` and ``after:`` of a docstring, each indented or on one line; None where one is missing."""
    blocks: dict[str, str] = {}
    for match in _BLOCK.finditer((inspect.getdoc(thing) or "") + "\n"):
        text = match["inline"] if match["inline"].strip() else textwrap.dedent(match["body"])
        blocks.setdefault(match["name"], text.strip("\n"))
    if not blocks.keys() >= {"before", "after"}:
        return None
    return Example(blocks["before"], blocks["after"], blocks.get("behind", ""))
