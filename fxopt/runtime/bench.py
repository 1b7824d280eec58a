"""Artifacts side by side: latency interleaved in one run, size, peak memory, metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fxopt.errors import FxoptError
from fxopt.runtime.artifact import Artifact, load
from fxopt.runtime.device import find_device
from fxopt.runtime.interleaved import Call, peak_of, time_artifacts


def bench(folders: list[Path], *, batch: int = 1, blocks: int = 11, on: str | None = None) -> list[dict[str, Any]]:
    """Measure artifacts in one run, on this machine or ``on`` a device; a row each, ratios against the first.

    On an emulated device nothing is timed.

    Raises BackendError for a broken one, DeviceError where the device fails.
    """
    loaded = {str(folder): load(folder, on=on) for folder in folders}
    calls: dict[str, Call] = {}
    for name, model in loaded.items():
        args, kwargs = model.random_inputs(batch)
        calls[name] = model, tuple(args), kwargs
    emulated = bool(on and find_device(on).facts()["emulated"])
    timings = {} if emulated else time_artifacts(calls, blocks=blocks)
    first = next(iter(timings.values()), None)
    return [
        {
            "artifact": name,
            **({"latency": timings[name].to_dict(), "ratio": timings[name].ratio(first).median} if first else {}),
            "file_bytes": sum((model.folder / f).stat().st_size for f in model.manifest.files),
            "peak_memory_bytes": peak_of(model),
            "emulated": emulated,
            **_metric(model),
        }
        for name, model in loaded.items()
    ]


def _metric(model: Artifact) -> dict[str, Any]:
    """The metric on the test split, where the recipe's workload has data and loads on this machine."""
    recipe = model.manifest.recipe
    if not recipe:
        return {}
    try:
        from fxopt.workload import find_workload

        data = find_workload(recipe["model"]).data
        return {"metric": data.metric, "value": data.evaluate(model, "test")} if data else {}
    except (FxoptError, ImportError):
        return {}
