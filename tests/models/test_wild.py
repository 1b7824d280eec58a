"""Models of other packages with random weights: each is captured, pruned and proved, or declined with the reason.

One test a model, so that a failure hides no other; it writes a row of ``build/wild_table.md`` (``FXOPT_WILD_TABLE`` for
another path), and a model that is through is not run again. To look at more of them, add lines to ``cases/wild_models.py``.
``FXOPT_WILD_INT8=onnx,openvino`` builds every model in int8 for these backends, instead of the few that say so for theirs; a
refusal is written down with its reason.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.table import write_row
from cases.wild_models import MODELS, Wild
from torch.utils import _pytree as pytree

from fxopt import Pipeline, Program, Workload, capture, capture_split
from fxopt.backends.onnx.runtime import MODEL_FILE, make_runner
from fxopt.driver.lower import lower
from fxopt.errors import BackendError, CaptureError, DataError, FxoptError, PassError
from fxopt.ir.cost import cost
from fxopt.numerics.error_metrics import sqnr
from fxopt.pass_manager.verify import Verify
from fxopt.registry import get
from fxopt.target.detect import host
from fxopt.workload.recorded import RecordedInputs

_EVERY = 8
"""Of so many models one is with the slow tests; the others take hours: ``pytest -m 'slow or zoo' tests/models/test_wild.py``."""
CASES = [pytest.param(m, marks=pytest.mark.zoo if i % _EVERY else pytest.mark.slow) for i, m in enumerate(MODELS)]

TABLE = Path(os.environ.get("FXOPT_WILD_TABLE", "build/wild_table.md"))
INT8 = tuple(filter(None, os.environ.get("FXOPT_WILD_INT8", "").split(",")))
ALIKE = 10.0
"""What is asked of models that were not looked at one by one: attention with random weights loses more."""
COLUMNS = ("model", "captured", "MACs left", "proved", "onnx", "openvino", "tvm", "reason", "result")
FINE = 20.0
"""SQNR in dB that int8 with random weights, calibrated on random inputs, is held to: enough to see that it is no other model."""


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {"model": request.node.callspec.params["model"].name, "result": "failed"}
    lines = TABLE.read_text().splitlines() if TABLE.exists() else []
    if any(line.startswith(f"| {found['model']} |") and line.endswith("| ok |") for line in lines):
        pytest.skip(f"has a row in {TABLE}")
    yield found
    gc.collect()
    write_row(TABLE, COLUMNS, found)


@pytest.mark.parametrize("model", CASES, ids=lambda model: model.name)
def test_model(model: Wild, row: dict[str, Any], tmp_path: Path) -> None:
    package = model.make.partition(":")[0].partition(".")[0]
    if importlib.util.find_spec(package) is None:
        row["result"] = "not installed"
        pytest.skip(f"{package} is not installed: pip install 'fxopt[wild]'")
    module, args, kwargs = model.build()
    program = _captured(module, args, kwargs, row)
    if program is None:
        row["result"] = "ok"
        return
    dense = cost(program)
    outcome = Pipeline.parse("fold_constants, prune_channels(ratio=0.5)").run(program)
    left, error = cost(outcome.program), outcome.steps[-1].findings.error
    row |= {
        "MACs left": f"{left.macs / max(1, dense.macs):.2f}",
        "proved": "unchanged" if error is None else f"{error:.0e}",
    }
    assert error is None or error < 1e-9
    if left.macs == dense.macs:
        row["reason"] = "; ".join(dict.fromkeys(s.reason for step in outcome.steps for s in step.skips))[:200]
        assert row["reason"] or not dense.macs, "nothing was removed, and no reason is given"
    for name in INT8 or model.backends:
        try:
            row[name] = _built_in_int8(program, name, tmp_path / name)
        except (BackendError, DataError, PassError) as error:
            row[name] = f"declined: {str(error).splitlines()[0][:150]}"
            if not INT8 or not error.way_out:
                raise
    row["result"] = "ok"


def _captured(module: Any, args: Any, kwargs: Any, row: dict[str, Any]) -> Program | None:
    """The program, or that of the part before the values are looked at; None with the reason where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = capture(module, args, kwargs)
        except CaptureError as error:
            row["reason"] = str(error).splitlines()[0]
            way_out = error.way_out
            try:
                split = capture_split(module, args, kwargs)
            except FxoptError:
                row["captured"] = "no"
                return None
            assert way_out, "a refusal names the way out"
            row["captured"] = f"up to {', '.join(split.tail.until)}"
            return split.program
    row["captured"] = program.signature()[:80]
    return program


def _built_in_int8(program: Program, name: str, folder: Path) -> str:
    """Calibrated on random inputs and run on the example; its SQNR in dB against the program in float."""
    backend = get("backend", name)()
    tensors = {str(n.target): v for n, v in zip(program.inputs(), program.example_leaves(), strict=True)}
    values = {key: v for key, v in tensors.items() if isinstance(v, torch.Tensor)}
    whole = len({len(v) for v in values.values()}) > 1  # as the nodes and edges of a graph, which are no batch
    arrays = {key: _random(v[None].expand(8, *v.shape) if whole else v).numpy() for key, v in values.items()}
    data = RecordedInputs(arrays, program)
    workload = Workload(name="wild", model=torch.nn.Identity, inputs=lambda: (program.args, {}), data=data)
    small = Pipeline.parse("fold_batch_norm, quantize").run(
        program, watchers=(Verify(),), workload=workload, target=host(), backend=backend
    )
    folder.mkdir()
    _, built = lower(small.program, backend, host(), folder, workload=workload)
    want, got = (pytree.tree_leaves(run(*program.args, **program.kwargs)) for run in (program, built))
    found = sqnr(want, [torch.as_tensor(value) for value in got])
    assert found > (ALIKE if INT8 else FINE), (
        f"{found:.1f} dB; {sqnr(want, _of_onnx_runtime(program, workload, folder)):.1f} by ONNX Runtime's own quantizer"
    )
    return f"{found:.0f} dB"


def _of_onnx_runtime(program: Program, workload: Workload, folder: Path) -> list[torch.Tensor]:
    """What the program gives for its example as ONNX Runtime quantizes it, with the same calibration data.

    It tells a net whose random weights int8 leaves little of, whoever quantizes, from a layer that is quantized badly.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(workload.calibration(8, "quantize_static"))

        def get_next(self) -> dict[str, Any] | None:
            args = next(self._batches, None)
            return args and {n.name: a.numpy() for n, a in zip(tensors, args, strict=True)}

    tensors = [node for node in program.inputs() if isinstance(node.meta["val"], torch.Tensor)]
    names = [folder / name for name in ("float", "prepared.onnx", "int8.onnx")]
    names[0].mkdir()
    lower(program, get("backend", "onnx")(), host(), names[0])
    quant_pre_process(names[0] / MODEL_FILE, names[1])
    quantize_static(
        names[1], names[2], Reader(), per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )  # fmt: skip
    run = make_runner(names[2], 1, "all", True)
    return [torch.as_tensor(value) for value in run([value.numpy() for value in program.example_leaves()])]


def _random(example: torch.Tensor) -> torch.Tensor:
    """Eight examples or calls like one: floats from a normal distribution, integers as often as they are in the example."""
    if example.is_floating_point():
        return torch.randn(8, *example.shape[1:])
    drawn = torch.randint(example.numel(), (8, *example.shape[1:]))
    return example.flatten()[drawn]


def test_every_model_has_a_name_of_its_own() -> None:
    names = [model.name for model in MODELS]
    assert len(set(names)) == len(names)
