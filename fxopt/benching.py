"""Artifacts side by side: latency interleaved in one run, size, peak memory, metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from fxopt.artifact import Artifact, load
from fxopt.device import find_device
from fxopt.errors import FxoptError
from fxopt.side_by_side import Call, peak_of, time_artifacts


def bench(folders: list[Path], *, batch: int = 1, blocks: int = 11, on: str | None = None) -> list[dict[str, Any]]:
    """Measure artifacts in one run, here or ``on`` the device at an address; a row each, ratios against the first.

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
            "file_bytes": sum((model.folder / f).stat().st_size for f in model.manifest["files"]),
            "peak_memory_bytes": peak_of(model),
            "emulated": emulated,
            **_metric(model),
        }
        for name, model in loaded.items()
    ]


def _metric(model: Artifact) -> dict[str, Any]:
    """The metric on the test split, where the recipe's workload has data and can be made on this machine."""
    recipe = model.manifest.get("recipe")
    if not recipe:
        return {}
    try:
        from fxopt.workload import find_workload

        data = find_workload(recipe["model"]).data
        return {"metric": data.metric, "value": data.evaluate(model, "test")} if data else {}
    except (FxoptError, ImportError):
        return {}


def bench_table(rows: list[dict[str, Any]]) -> Table:
    """The rows of :func:`bench` as a table."""
    emulated = any(row["emulated"] for row in rows)
    table = Table(caption="emulated: what it takes says nothing, and is not measured" if emulated else None)
    for column in ("artifact", "ms (quartiles)", "ratio", "file, kB", "peak memory, MB", "metric"):
        table.add_column(column, justify="left" if column == "artifact" else "right")
    for row in rows:
        t, ratio = row.get("latency"), row.get("ratio")
        memory = row["peak_memory_bytes"]
        table.add_row(
            row["artifact"],
            f"{t['median_ms']:.3g} ({t['low_ms']:.3g}–{t['high_ms']:.3g})" if t else "-",
            f"{ratio:.3f}" if ratio else "-",
            f"{row['file_bytes'] / 1000:,.0f}",
            f"{memory / 1e6:,.0f}" if memory else "?",
            f"{row['metric']} {row['value']:.4f}" if "metric" in row else "",
        )
    return table
