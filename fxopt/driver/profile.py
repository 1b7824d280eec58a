"""Time of each layer of an artifact: the kernels of its runtime's profiler, mapped back to the layers of its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from pydantic import Field

from fxopt.backend import find_backend
from fxopt.backend.kernel_time import KernelTime
from fxopt.driver.layers import LayerFigures
from fxopt.driver.part import Document, Part
from fxopt.driver.report import BuildReport, Latency
from fxopt.driver.roofline import Roof, measure_roof
from fxopt.errors import DeviceError
from fxopt.pass_manager.context import Context
from fxopt.runtime.artifact import Artifact, load
from fxopt.runtime.device import find_device
from fxopt.runtime.interleaved import time_artifacts

SCHEMA_VERSION = 1
_CALLS, _BLOCKS, _ROUNDS = 20, 5, 3
"""Calls under the profiler in a round, blocks of calls without it, and rounds, in which artifacts take turns; the median
round counts."""
_WORST, _NOTED = 10, 0.01
"""Layers that are named for what they take beyond their roof, at most, and the share of the whole that this is at least."""
_SLOWER = 1.05
"""Ratio from which a layer is slower than its twin; smaller ones may be noise."""


class LayerTime(Part):
    """A layer and its kernels, or with an empty ``name`` those that the runtime added: ``ms`` a call, share of the sum.

    ``twin_ms`` is what the layer takes in the twin, where that has it, and ``roof_ms`` what it would take at the rates of
    ``Profile.roof``, where these were measured.
    """

    name: str
    module: str = ""
    op: str = ""
    source: str = ""
    precision: str = ""
    kernels: tuple[str, ...]
    ms: float
    share: float
    macs: int = 0
    twin_ms: float | None = None
    roof_ms: float | None = None


class Profile(Document):
    """All layers of an artifact in the order of a call. ``sum_ms`` of the kernels compares with ``whole``, which is timed
    without a profiler; ``slower`` names the integer layers that take longer than the twin's float ones; ``above_roof`` those
    that would gain most by kernels as good as the backend's best, the largest gain first.
    """

    schema_version: int = SCHEMA_VERSION
    folder: str
    backend: str
    on: str | None = None
    whole: Latency
    sum_ms: float
    layers: list[LayerTime]
    twin: str | None = None
    slower: list[str] = Field(default_factory=list)
    roof: Roof | None = None
    above_roof: list[str] = Field(default_factory=list)


def profile(
    folder: Path, *, twin: Path | None = None, batch: int = 1, on: str | None = None, roofline: bool = False
) -> Profile:
    """Profile an artifact, on this machine or ``on`` a device, side by side with its ``twin`` in float, if given.

    With ``roofline``, large layers are built by its backend and timed too, for the rates that others are held against.
    Inputs are random. Raises UsageError for a folder without a report, BackendError where the runtime has no profile of
    kernels, DeviceError where the device fails, or is emulated.
    """
    if on and find_device(on).facts()["emulated"]:
        raise DeviceError(
            f"the device at {on} is emulated: what it takes says nothing", way_out="profile it on a real one"
        )
    reports = [BuildReport.read(path) for path in (folder, twin) if path is not None]
    artifacts = [load(Path(str(report.folder)), on=on) for report in reports]
    rounds: list[list[list[KernelTime]]] = [[] for _ in artifacts]
    args, kwargs = artifacts[0].random_inputs(batch)
    wholes = []
    for _ in range(_ROUNDS):
        for i, artifact in enumerate(artifacts):
            rounds[i].append(_kernels(artifact, batch))
        # one call after another without pauses, as under the profiler
        wholes.append(time_artifacts({"": (artifacts[0], tuple(args), kwargs)}, blocks=_BLOCKS)[""])
    whole = sorted(wholes, key=lambda timing: timing.ms.median)[_ROUNDS // 2]
    kernels = [_median(lists) for lists in rounds]
    layers = layer_times(kernels[0], reports[0].layers)
    if len(reports) > 1:
        layers = _beside(layers, layer_times(kernels[1], reports[1].layers))
    roof = _roof(artifacts[0], on, layers, batch) if roofline else None
    if roof is not None:
        figures = {layer.name: layer for layer in reports[0].layers}
        layers = [
            layer.model_copy(update={"roof_ms": roof.ms(figures[layer.name], batch)}) if layer.name else layer
            for layer in layers
        ]
    return Profile(
        folder=str(folder), backend=artifacts[0].manifest.backend, on=on, whole=Latency.of(whole), layers=layers,
        sum_ms=sum(kernel.ms for kernel in kernels[0]), twin=str(twin) if twin else None,
        slower=[
            layer.name for layer in layers
            if layer.twin_ms and "int" in layer.precision and layer.ms > _SLOWER * layer.twin_ms
        ],
        roof=roof, above_roof=_above_roof(layers),
    )  # fmt: skip


def _roof(artifact: Artifact, on: str | None, layers: Sequence[LayerTime], batch: int) -> Roof:
    """The rates of the artifact's backend on the machine that it runs on."""
    manifest = artifact.manifest
    context = Context(target=replace(manifest.target, address=on), backend=find_backend(manifest.backend))
    rates = [1000 * layer.macs * batch / layer.ms for layer in layers if layer.precision == "int8" and layer.ms]
    return measure_roof(context, integers=bool(rates), fastest=max(rates, default=0.0))


def _above_roof(layers: Sequence[LayerTime]) -> list[str]:
    """Names of up to ten layers by what they take beyond their roof, if that is worth a word."""
    gains = {layer.name: layer.ms - layer.roof_ms for layer in layers if layer.roof_ms is not None}
    ranked = sorted(gains, key=lambda name: -gains[name])
    least = _NOTED * sum(layer.ms for layer in layers)
    return [name for name in ranked[:_WORST] if gains[name] > least]


def layer_times(kernels: Sequence[KernelTime], layers: Sequence[LayerFigures]) -> list[LayerTime]:
    """Times by layer. A kernel belongs to the op with most work of those that it computes: the nodes that the runtime names,
    and their operands that no other kernel computes.
    """
    known = {layer.name: layer for layer in layers}
    claimed = {name for kernel in kernels for name in kernel.nodes}
    found: dict[str, list[KernelTime]] = {}
    for i, kernel in enumerate(kernels):
        inside = [known[name] for name in _absorbed(kernel.nodes, claimed, known)]
        main = max(inside, key=lambda layer: (layer.macs, "quantize" not in layer.op), default=None)
        found.setdefault(main.name if main else f" {i}", []).append(kernel)
    total = sum(kernel.ms for kernel in kernels) or 1.0
    rows = []
    for name, own in found.items():
        ms, kinds = sum(kernel.ms for kernel in own), tuple(f"{kernel.kind} {kernel.name}" for kernel in own)
        layer = known.get(name)
        facts = (
            {}
            if layer is None
            else {key: getattr(layer, key) for key in ("module", "op", "source", "precision", "macs")}
        )
        rows.append(LayerTime(name=name if layer else "", kernels=kinds, ms=ms, share=ms / total, **facts))
    return rows


def _absorbed(nodes: Sequence[str], claimed: set[str], known: dict[str, LayerFigures]) -> list[str]:
    """The known nodes of a kernel, and their operands that have no kernel of their own."""
    found = {name: None for name in nodes if name in known}
    left = list(found)
    while left:
        for name in known[left.pop()].inputs:
            if name in known and name not in claimed and name not in found:
                found[name] = None
                left.append(name)
    return list(found)


def _kernels(artifact: Artifact, batch: int) -> list[KernelTime]:
    args, kwargs = artifact.random_inputs(batch)
    arrays = artifact.arrays(*args, **kwargs)
    if artifact.device is not None:
        return artifact.device.profile(artifact.runner, arrays, _CALLS)
    return find_backend(artifact.manifest.backend).profile(artifact.folder, artifact.manifest, arrays, _CALLS)


def _median(rounds: Sequence[list[KernelTime]]) -> list[KernelTime]:
    """Kernel by kernel the median of the rounds: the quickest of each would sum to less than any call takes.

    A kernel may be called several times, and one near what the clock can tell may lack in a round.
    """
    times: dict[tuple[str, str, int], list[KernelTime]] = {}
    for kernels in rounds:
        called: Counter[tuple[str, str]] = Counter()
        for kernel in kernels:
            key = kernel.name, kernel.kind
            called[key] += 1
            times.setdefault((*key, called[key]), []).append(kernel)
    return [replace(found[0], ms=median(kernel.ms for kernel in found)) for found in times.values()]


def _beside(layers: list[LayerTime], twin: list[LayerTime]) -> list[LayerTime]:
    """The layers with the twin's times, matched by name, or by module where that has a single layer."""
    by_name = {layer.name: layer.ms for layer in twin if layer.name}
    by_module = {layer.module: layer.ms for layer in twin if layer.module and layer.macs}
    return [
        layer.model_copy(
            update={"twin_ms": by_name.get(layer.name, by_module.get(layer.module) if layer.macs else None)}
        )
        for layer in layers
    ]
