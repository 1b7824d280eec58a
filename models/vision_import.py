"""The one place that imports torchvision, timm and transformers, and makes up for a torchvision that lost its operators.

torchvision's wheel on PyPI is compiled against the CUDA build of torch. Beside a CPU torch its extension does not load,
and then the import itself fails, because it gives shape rules to operators that nobody has declared.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from types import ModuleType

import torch

from fxopt.errors import UsageError
from fxopt.support.quieted import quieted

_INSTALL = "pip install 'fxopt[zoo]'"
_MISSING = "operator torchvision::nms does not exist"


@functools.cache
def import_torchvision() -> ModuleType:
    """Import torchvision, with its compiled operators or without. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise UsageError("this model comes from torchvision, which is not installed", way_out=_INSTALL) from error
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare_operators()
    module = importlib.import_module("torchvision")
    # its check is for the extension as a whole; the one operator that follows it here is there now
    importlib.import_module("torchvision.ops.boxes")._assert_has_ops = _operators_are_declared  # type: ignore[attr-defined]
    return module


def import_transformers() -> ModuleType:
    """Import transformers, which imports torchvision where that is installed. Raises UsageError where it is not there."""
    if importlib.util.find_spec("transformers") is None:
        raise UsageError("this model comes from transformers, which is not installed", way_out=_INSTALL)
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    if importlib.util.find_spec("torchao") is not None:  # transformers imports it too, and it warns of optional parts
        with quieted("torchao", "torch.utils._pytree"):
            importlib.import_module("torchao.quantization")
    return importlib.import_module("transformers")


@functools.cache
def import_timm() -> ModuleType:
    """Import timm (and torchvision, which it needs). Raises UsageError where one is not installed."""
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise UsageError("this model comes from timm, which is not installed", way_out=_INSTALL) from error


def _operators_are_declared() -> None:
    """In place of torchvision's check; a function with a body, for it is called in what torch.jit.script compiles."""
    return


_libraries: list[torch.library.Library] = []  # declarations vanish with their library object


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CPU")
    _libraries.append(library)


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression: of boxes [N,4] as x1 y1 x2 y2, the indices int64 [K] kept, best score first."""
    order = scores.argsort(descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order) > 0:
        best, rest = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[rest, :2])
        high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        order = rest[shared <= iou_threshold * (area[best] + area[rest] - shared)]
    return torch.stack(kept) if kept else order
