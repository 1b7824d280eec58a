"""Importing this says what to install where optuna, which proposes recipes and keeps trials, is absent."""

from __future__ import annotations

from fxopt.backend import not_installed
from fxopt.errors import UsageError

if reason := not_installed(("optuna",), "search"):
    raise UsageError(f"a search needs optuna; {reason}")
