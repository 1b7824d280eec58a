"""A question to a device, or its answer, as bytes: plain values and arrays.

Nothing is pickled: what comes from the other side is read as data, whatever it is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

_VALUES = "values"


def pack(values: dict[str, Any], arrays: Sequence[Any] = ()) -> bytes:
    """Plain values, as JSON holds them, and arrays."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(values).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, **{_VALUES: text}, **{str(i): array for i, array in enumerate(arrays)})
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], list[Any]]:
    """Back from :func:`pack`. Raises ValueError for bytes that it did not make."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            values = json.loads(found[_VALUES].tobytes())
            arrays = [found[str(i)] for i in range(len(found.files) - 1)]
    except Exception as error:  # numpy has many for bytes that are none of its own
        raise ValueError(f"{len(data)} bytes that are no message: {str(error).split('.')[0]}") from None
    if not isinstance(values, dict):
        raise ValueError("a message without values")
    return values, arrays
