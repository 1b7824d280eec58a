"""Quantizers of others on one float ONNX file: each writes its file, calibrated with the same training examples as ours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch.utils import _pytree as pytree

from fxopt import Workload
from fxopt.backend import Runner
from fxopt.backends.onnx.runtime import make_runner as onnx_runner
from fxopt.backends.openvino.runtime import make_runner as openvino_runner
from fxopt.backends.openvino.runtime import properties

Maker = Callable[[Path, Workload, int, Path], tuple[Runner, int]]
"""The float file, the workload, the number of calibration examples and an empty folder, to what runs it and its bytes."""


def ort_static(plain: Path, workload: Workload, examples: int, folder: Path) -> tuple[Runner, int]:
    """``quantize_static`` as its documentation says: preprocessed, QDQ, per channel, u8 activations, s8 weights, min-max."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = fed(plain, workload.calibration(examples, "quantize_static"))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    out = folder / "static.onnx"
    quantize_static(
        str(_prepared(plain, folder)), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return onnx_runner(out, 1, "all", True), out.stat().st_size


def ort_dynamic(plain: Path, workload: Workload, examples: int, folder: Path) -> tuple[Runner, int]:
    """``quantize_dynamic`` as its documentation says; its convolutions have kernels for unsigned weights alone."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared, out = _prepared(plain, folder), folder / "dynamic.onnx"
    convolves = any(node.op_type == "Conv" for node in onnx.load(prepared).graph.node)
    quantize_dynamic(prepared, out, weight_type=QuantType.QUInt8 if convolves else QuantType.QInt8)
    return onnx_runner(out, 1, "all", True), out.stat().st_size


def nncf(
    plain: Path, workload: Workload, examples: int, folder: Path, *, transformer: bool = False
) -> tuple[Runner, int]:
    """``nncf.quantize`` of the OpenVINO model, example by example; ``transformer`` is the model type it wants to be told."""
    import nncf as peer
    import openvino

    data: Any = workload.need_data("nncf")
    single = (args for args, _ in data.batches("train", batch_size=1))
    seen = [feed for feed, _ in zip(fed(plain, single), range(examples), strict=False)]
    kind = peer.ModelType.TRANSFORMER if transformer else None
    made = peer.quantize(openvino.Core().read_model(plain), peer.Dataset(seen), subset_size=examples, model_type=kind)
    out = folder / "nncf.xml"
    openvino.save_model(made, out, compress_to_fp16=False)
    size = out.stat().st_size + out.with_suffix(".bin").stat().st_size
    return openvino_runner(out, properties(1, "auto", "latency")), size


nncf_transformer: Maker = functools.partial(nncf, transformer=True)


def fed(plain: Path, batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """Arguments of a workload as arrays by the names of the file's inputs, in their order."""
    import onnx

    names = [value.name for value in onnx.load(plain, load_external_data=False).graph.input]
    for args in batches:
        yield dict(zip(names, (leaf.numpy() for leaf in pytree.tree_leaves(args)), strict=True))


def _prepared(plain: Path, folder: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    out = folder / "prepared.onnx"
    quant_pre_process(str(plain), str(out), skip_symbolic_shape=True)
    return out
