"""Blocks of TVM made anew."""

from __future__ import annotations

from typing import Any


def rebuilt(block: Any, **changes: Any) -> Any:
    """A block with some of its parts changed, by the names that TVM has for them."""
    from tvm.s_tir import SBlock

    names = (
        "iter_vars",
        "reads",
        "writes",
        "name_hint",
        "body",
        "init",
        "alloc_buffers",
        "match_buffers",
        "annotations",
    )
    return SBlock(*(changes[name] if name in changes else getattr(block, name) for name in names))
