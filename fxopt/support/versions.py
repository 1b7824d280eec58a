"""Versions of the packages that a result can depend on."""

from __future__ import annotations

import importlib.metadata

_PACKAGES = (
    "fxopt",
    "torch",
    "numpy",
    "tensorly",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "apache-tvm",
    "openvino",
    "executorch",
)


def versions() -> dict[str, str]:
    """Those that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
