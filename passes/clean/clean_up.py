"""The usual clean-up in one word."""

from __future__ import annotations

from fxopt import Pass, graph_pass
from fxopt.passes.clean.drop_noop import drop_noop
from fxopt.passes.clean.fold_constants import fold_constants
from fxopt.passes.clean.merge_duplicates import merge_duplicates


@graph_pass
def clean_up() -> tuple[Pass, ...]:
    """Drop no-ops, fold constants, merge duplicates: drop_noop, fold_constants, merge_duplicates."""
    return (drop_noop(), fold_constants(), merge_duplicates())
