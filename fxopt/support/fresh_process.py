"""A function in a process of its own, which shares nothing with this one but its arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable


def fresh_process(main: Callable[[], object], *arguments: str) -> list[str]:
    """The command that calls a function of a module, with ``arguments`` in ``sys.argv``."""
    return [sys.executable, "-c", f"from {main.__module__} import {main.__name__} as main; main()", *arguments]
