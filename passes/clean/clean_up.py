"""The usual clean-up in one word."""

from __future__ import annotations

from fxopt import Pass, graph_pass
from fxopt.passes.clean.drop_noop import drop_noop
from fxopt.passes.clean.fold_constants import fold_constants
from fxopt.passes.clean.merge_duplicates import merge_duplicates


@graph_pass(stage="exact")
def clean_up() -> tuple[Pass, ...]:
    """Drop no-ops, fold constants and merge duplicates.

    Stands for drop_noop, fold_constants and merge_duplicates.

    before:
        %x : f32[2,4]
        %y = aten.dropout(%x, 0.5, False)
        %a = aten.relu(%y)
        %b = aten.relu(%x)
        %z = aten.add.Tensor(%a, %b)
        return %z
    after:
        %x : f32[2,4]
        %a = aten.relu(%x)
        %z = aten.add.Tensor(%a, %a)
        return %z
    """
    return (drop_noop(), fold_constants(), merge_duplicates())
