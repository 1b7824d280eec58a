"""An ONNX model as a file, with its weights beside it where they are too large for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LARGE = 2_000_000_000
"""Bytes above which weights go to a file beside: a protobuf message holds at most 2 GiB."""


def save(model: Any, path: Path) -> None:
    """Write a model, the same bytes each time."""
    import onnx

    if model.ByteSize() > _LARGE:
        onnx.save_model(model, str(path), save_as_external_data=True, location=path.name + ".data")
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))
