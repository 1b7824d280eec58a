"""What runs a model in ONNX Runtime where there is no Python."""

from __future__ import annotations

from fxopt.backend.standalone import Library, Standalone, Wheel
from fxopt.backends.onnx.runtime import disabled_optimizers
from fxopt.backends.runner import sources

_LEVELS = {"all": 99, "extended": 2, "basic": 1, "disabled": 0}
"""The numbers of GraphOptimizationLevel in the runtime's C interface."""

_WHEEL = Wheel(
    "onnxruntime",
    (Library("onnxruntime/capi/libonnxruntime.so.*", "libonnxruntime.so.1"),),
    licenses=("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"),
    exact=False,
)


def standalone(threads: int | None, level: str, arena: bool, *, float16: bool) -> Standalone:
    """The program, with the options of a session that the Python runtime opens."""
    options = {
        "optimization_level": str(_LEVELS[level]),
        "arena": str(int(arena)),
        "disabled_optimizers": ";".join(disabled_optimizers(float16)),
    }
    return Standalone(sources("onnx"), (_WHEEL,), options | ({"threads": str(threads)} if threads else {}))
