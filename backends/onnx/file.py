"""An ONNX model as a file, with its weights, those that are read, beside it where they are too large for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_MOST_BYTES = 2_000_000_000
"""A protobuf message holds at most 2 GiB."""


def save(model: Any, path: Path, most_bytes: int = _MOST_BYTES) -> None:
    """Write a model, the same bytes each time; weights go to a file beside it where it has more than ``most_bytes``."""
    import onnx

    if model.ByteSize() > most_bytes:
        onnx.save_model(model, str(path), save_as_external_data=True, location=path.name + ".data")
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))


def drop_unused(model: Any) -> None:
    """Remove stored tensors that nothing reads."""
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for initializer in [i for i in model.graph.initializer if i.name not in used]:
        model.graph.initializer.remove(initializer)
