"""Importing this says what to install where optuna, which proposes recipes and keeps trials, is absent."""

from __future__ import annotations

from fxopt.errors import UsageError

try:
    import optuna  # noqa: F401
except ImportError:
    raise UsageError("a search needs optuna, which is not installed", way_out="pip install 'fxopt[search]'") from None
