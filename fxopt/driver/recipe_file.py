"""What a recipe file may hold, key by key: read by :mod:`fxopt.driver.recipe`, shown to editors as a JSON Schema."""

from __future__ import annotations

from typing import Annotated, Any, Required

from annotated_types import Gt
from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from fxopt.pass_manager.verify import Proof

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class BudgetTable(TypedDict, total=False):
    """Limits; a build that misses one ends with exit code 1."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    metric_drop: float
    """Largest loss of the metric, in its own unit: 0.01 is one point of top-1."""
    latency_ms: Annotated[float, Gt(0)]
    """Largest median latency of a call on the target, in ms."""
    file_bytes: Annotated[int, Gt(0)]
    """Largest size of the compiled model."""
    macs: Annotated[int, Gt(0)]
    """Most multiply-accumulates, of one example where the batch is dynamic, else of the example inputs."""


class ReportTable(TypedDict, total=False):
    """What a build writes beside its report."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    html: bool
    """Whether it writes report.html, a page of the build."""


class RecipeFile(TypedDict, total=False):
    """What to build: a model, passes, a backend, a target, limits."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    model: Required[str]
    """A workload such as digits, torchvision:resnet18, package.module:attribute, or a .pt2 file."""
    passes: list[str] | str
    """Passes in the order in which they run, with options: prune_channels(ratio=0.5)."""
    backend: str
    """What compiles it, with options: onnx(threads=2)."""
    target: str
    """The device to build for: a name of `fxopt targets`, or a .toml file."""
    calibration: str
    """Recorded inputs, .npy or .npz, for a model without data of its own."""
    proof: Proof
    """How numbers are compared after each pass."""
    device: str
    """Where passes train, calibrate and evaluate: auto, cpu, cuda, cuda:1, mps, xpu. The default is cpu."""
    budget: BudgetTable
    report: ReportTable
    search: dict[str, Any]
    """What `fxopt search` may vary: passes, require, backends, and a table for each pass."""
