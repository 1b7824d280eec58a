"""The cache of results in the user's folder of caches."""

from __future__ import annotations

import os
from pathlib import Path

from fxopt.errors import UsageError
from fxopt.pass_manager.step_cache import StepCache
from fxopt.support.cache_folder import cache_folder
from fxopt.support.store import Store

LIMIT = 4 * 2**30
"""Bytes that the cache may take, unless ``$FXOPT_CACHE_BYTES`` says otherwise."""


def result_store(root: Path | None = None) -> Store:
    """The store of results, below ``root`` or the user's folder of caches. Raises UsageError for a limit that is no number."""
    said = os.environ.get("FXOPT_CACHE_BYTES") or str(LIMIT)
    if not said.isdecimal():
        raise UsageError(f"FXOPT_CACHE_BYTES={said} is no number of bytes", way_out="give one such as 4000000000")
    return Store((root or cache_folder()) / "results", int(said))


def default_cache() -> StepCache | None:
    """The cache that builds use; None where several processes train together, as not all might find the same entries."""
    return StepCache(result_store()) if int(os.environ.get("WORLD_SIZE", "1")) == 1 else None
