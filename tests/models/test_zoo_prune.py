"""Half of the channels of every model, proved in float64 value by value, and run in ONNX Runtime.

torchvision's 97 float models that capture, the parts of its 12 detectors, families of timm and of transformers. Each
model writes a row; the table is ``build/prune_table.md`` (``FXOPT_PRUNE_TABLE`` for another path).
"""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fxopt import Pipeline, Program, capture, capture_parts
from fxopt.driver.lower import lower
from fxopt.ir.cost import cost
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import find_groups
from fxopt.target.detect import host
from fxopt.workload import find_workload

for name in ("torchvision", "onnxruntime", "timm", "transformers"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

from cases.table import write_row  # noqa: E402
from cases.timm_families import FAMILIES  # noqa: E402
from cases.zoo import DETECTORS, OTHERS, build  # noqa: E402

IN_CI = {
    "resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "vit_b_32", "swin_t", "convnext_tiny",
    "regnet_y_400mf", "efficientnet_b0", "r3d_18", "lraspp_mobilenet_v3_large", "googlenet",
    "ssdlite320_mobilenet_v3_large", "resnext50_32x4d",
    "timm:crossvit_tiny_240", "timm:levit_128s(size=64)", "timm:res2net50_14w_8s(size=64)", "timm:xcit_nano_12_p16_224(size=64)",
    "transformers:bert", "transformers:vit", "transformers:llama", "transformers:convnext",
    "transformers:t5", "transformers:whisper", "transformers:segformer",
    "timm:hrnet_w18_small(size=64)",
}  # fmt: skip
"""One of each kind is run by CI; the others by hand: ``pytest -m "slow or zoo" tests/models/test_zoo_prune.py``."""


def cases(names: list[str]) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow if n in IN_CI else pytest.mark.zoo, id=n) for n in names]


TABLE = Path(os.environ.get("FXOPT_PRUNE_TABLE", "build/prune_table.md"))
COLUMNS = (
    "model",
    "groups",
    "requested",
    "removed",
    "MACs left",
    "weights left",
    "error",
    "ORT",
    "seconds",
    "what stays",
)
TRANSFORMERS = ("bert", "vit", "llama", "swin", "convnext", "t5", "whisper", "segformer")


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {"model": request.node.callspec.params["name"]}
    yield found
    gc.collect()
    write_row(TABLE, COLUMNS, found)


@pytest.mark.parametrize("name", cases(OTHERS))
def test_torchvision(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    _prune(capture(*build(name)), row, tmp_path)


@pytest.mark.parametrize("name", cases(DETECTORS))
def test_detector_in_parts(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    model, args = build(name)
    parts = capture_parts(model, args)
    for part, program in parts.programs.items():
        found: dict[str, Any] = {}
        pruned = _prune(program, found, tmp_path / part.replace(".", "_"))
        for key, value in found.items():
            row[key] = f"{row[key]}, {value}" if key in row else f"{value}"
        assert pruned.signature() == program.signature()
    assert int(str(row["removed"]).split(", ")[0]) > 0, "the backbone comes first, and it can be pruned"


@pytest.mark.parametrize("name", cases([f"timm:{spec}" for spec in FAMILIES]))
def test_timm(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    _prune(find_workload(name).capture(), row, tmp_path)


@pytest.mark.parametrize("name", cases([f"transformers:{kind}" for kind in TRANSFORMERS]))
def test_transformers(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    _prune(find_workload(name).capture(), row, tmp_path)


def _prune(program: Program, row: dict[str, Any], folder: Path) -> Program:
    """Prune, prove, lower, compare; fill the row."""
    sizes = {group.name: len(group.atoms) for group in find_groups(couple(program)) if len(group.atoms) > 1}
    dense = cost(program)
    start = time.perf_counter()
    outcome = Pipeline.parse("fold_constants, prune_channels(ratio=0.5)").run(program)
    row["seconds"] = round(time.perf_counter() - start, 1)
    (permuted,) = Pipeline.parse("sort_channels").run(program).steps
    assert permuted.findings.error < 1e-9
    assert permuted.changed or not sizes, "nothing was sorted"
    pruned, left = outcome.program, cost(outcome.program)
    now = {group.name: len(group.atoms) for group in find_groups(couple(pruned))}
    removed = {name: n - now.get(name, 1) for name, n in sizes.items()}
    chosen = {name: n for name, n in sizes.items() if removed[name] or n == 2}
    row |= {"groups": len(sizes), "requested": sum(n // 2 for n in chosen.values()), "removed": sum(removed.values())}
    row |= {"MACs left": round(left.macs / dense.macs, 3), "weights left": round(left.parameters / dense.parameters, 3)}
    stays = Counter(re.sub(r"^.*stay: | \(at .*$", "", s.reason) for step in outcome.steps for s in step.skips)
    row["what stays"] = "; ".join(f"{count}x {reason}" for reason, count in stays.most_common(4))
    error = outcome.steps[-1].findings.error
    row["error"] = f"{error:.1e}"
    assert error < 1e-9
    assert left.macs < dense.macs or not sizes, "nothing was removed"
    del program, outcome
    _run_in_onnx(pruned, row, folder)
    return pruned


def _run_in_onnx(program: Program, row: dict[str, Any], folder: Path) -> None:
    from fxopt.numerics.error_metrics import relative_error
    from fxopt.registry import get

    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        legal, built = lower(program, get("backend", "onnx")(), host(), folder)
    want = torch.utils._pytree.tree_leaves(legal(*program.args, **program.kwargs))
    got = torch.utils._pytree.tree_leaves(built(*program.args, **program.kwargs))
    errors = [relative_error(a.double(), torch.as_tensor(b).double()) for a, b in zip(want, got, strict=True)]
    row["ORT"] = f"{max(errors):.1e}"
    assert max(errors) < 1e-2, errors
