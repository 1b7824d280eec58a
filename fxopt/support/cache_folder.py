"""The folder of all caches: results of steps, timed tiles, downloaded wheels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$FXOPT_CACHE``, or ``fxopt`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    if own := os.environ.get("FXOPT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxopt"
