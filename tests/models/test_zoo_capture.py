"""Every float model of torchvision: captured, equal to eager, costed right; or named for why not, and captured in parts.

CI takes one model of each family; ``pytest -m "slow or zoo" tests/models/test_zoo_capture.py`` takes all. Each writes a row; the
table of all rows is ``build/capture_table.md`` (``FXOPT_CAPTURE_TABLE`` for another path).
"""

from __future__ import annotations

import gc
import importlib.util
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.table import write_row
from cases.zoo import DETECTORS, OTHERS, SMALLEST, build
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from fxopt import CaptureWarning, capture, capture_parts
from fxopt.errors import CaptureError
from fxopt.ir.cost import cost
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)


def cases(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if name in SMALLEST else pytest.mark.zoo) for name in names]


TABLE = Path(os.environ.get("FXOPT_CAPTURE_TABLE", "build/capture_table.md"))
COLUMNS = ("model", "captured", "batch", "nodes", "ops", "MACs", "seconds", "unknown ops", "parts", "covered", "reason")

FIXED_BATCH = {"raft_large", "raft_small"}
"""RAFT stacks both images into one batch and halves it again, which torch cannot follow for a dynamic size."""


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is not counted
    found: dict[str, Any] = {"model": request.node.callspec.params["name"]}
    yield found
    torch.backends.mha.set_fastpath_enabled(True)
    gc.collect()
    write_row(TABLE, COLUMNS, found)


@pytest.mark.parametrize("name", cases(OTHERS))
def test_captured(name: str, row: dict[str, Any]) -> None:
    model, args = build(name)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CaptureWarning)
        program = capture(model, args)
    row |= {"captured": True, "seconds": round(time.perf_counter() - start, 1), "batch": bool(program.dims())}
    row |= _facts(program)
    row["reason"] = "; ".join(program.notes)
    # the CPU's flash attention is unknown to the counter; as matrix products it is counted
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops, torch.no_grad():
        want = pytree.tree_leaves(model(*args))
    got = pytree.tree_leaves(program(*args))
    assert [type(a) for a in want] == [type(a) for a in got]
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))
    assert cost(program).unknown == ()
    assert row["MACs"] == flops.get_total_flops() / 2, "torch's own counter disagrees"
    fixed = [w for w in caught if w.category is CaptureWarning]
    assert bool(program.dims()) == (name not in FIXED_BATCH) == (not fixed)


def _facts(program: Program) -> dict[str, Any]:
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    found = cost(program)
    return {
        "nodes": len(program.graph.nodes), "ops": len({op_name(n) for n in calls}), "MACs": found.macs,
        "unknown ops": ", ".join(found.unknown),
    }  # fmt: skip


@pytest.mark.parametrize("name", cases(DETECTORS))
def test_detector_in_parts(name: str, row: dict[str, Any]) -> None:
    model, args = build(name)
    start = time.perf_counter()
    parts = capture_parts(model, args)
    row |= {"captured": False, "seconds": round(time.perf_counter() - start, 1), "parts": ", ".join(parts.programs)}
    row |= {"covered": round(parts.coverage, 3), "reason": parts.failures[""].replace("\n", " ")}
    assert "torchvision/" in parts.failures[""], "the line that stops the capture is named"
    assert "backbone" in parts.programs
    assert parts.coverage > 0.99
    assert all(cost(program).unknown == () for program in parts.programs.values())
    with torch.no_grad():
        want, got = (pytree.tree_leaves(m(*args)) for m in (model, parts.install(model)))
    assert want[0].numel(), "no boxes: nothing was compared"
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_a_detector_as_a_whole_is_refused_with_the_way_out() -> None:
    model, args = build("ssdlite320_mobilenet_v3_large")
    with pytest.raises(CaptureError, match=r"torchvision/.*:\d+(.|\n)*at='backbone'"):
        capture(model, args, dynamic=None)


def test_all_of_the_zoo_is_here() -> None:
    assert (len(OTHERS), len(DETECTORS)) == (97, 12)
    assert {*OTHERS, *DETECTORS} > SMALLEST
