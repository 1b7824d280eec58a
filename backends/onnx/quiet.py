"""The exporter without its prints."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from fxopt.support.quieted import quieted


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter prints progress and warns about optional packages."""
    with (
        quieted("torch.onnx", "onnxscript", "onnx_ir", "torch.export"),
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield
