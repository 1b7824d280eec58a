"""A program as an OpenVINO model: exported to ONNX, converted, and the same bytes each time."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from fxopt.backends.onnx.export import export
from fxopt.backends.openvino.runtime import new_core, reason_of
from fxopt.backends.openvino.shorten import shorten
from fxopt.errors import BackendError
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.support.resources import resource_error
from fxopt.support.scratch import scratch_folder

OPSET = 22
"""Version of the ONNX operators on the way, the first whose convolutions take bfloat16; nothing of it is left in the result."""
_OPSET_OF_FFT = 19
"""The last whose DFT has its axis as an attribute: OpenVINO does not read the input that it is since, and takes the second."""
_INDENTS = re.compile(r">\s+<")
"""Between tags, where an attribute has no bare ``<``: a sixth of the description of a model, as of a small net in int8."""


def need_exporter() -> None:
    """Raise BackendError where a package is missing that the way through ONNX needs."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise BackendError(f"{package} is not installed, which building needs: pip install 'fxopt[openvino]'")


def convert(program: Program, path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Write ``program`` as ``path`` and the weights beside it; return what :func:`fxopt.backends.onnx.export.export` does.

    Weights keep their dtype. Raises BackendError where the export fails, or OpenVINO has no form of an op.
    """
    core = new_core()
    with scratch_folder() as folder:
        between = folder / "model.onnx"
        origins, nodes = export(program, _opset(program), between)
        try:
            model = core.read_model(between)
        except Exception as error:
            raise BackendError(_refusal(error, origins)) from error
        origins |= _origins_of_outputs(between, origins)
        shorten(model)
        _save(model, path)
    return origins, nodes


def _opset(program: Program) -> int:
    transforms = any(op_name(node).startswith("aten.fft_") for node in program.graph.nodes)
    return _OPSET_OF_FFT if transforms else OPSET


def _save(model: Any, path: Path) -> None:
    import openvino

    try:
        openvino.save_model(model, path, compress_to_fp16=False)
        path.write_text(_INDENTS.sub("><", path.read_text(encoding="utf-8")), encoding="utf-8")
    except Exception as error:
        weights = sum(op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant")
        written = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*"))
        if full := resource_error(error, path.parent, needed=weights - written):  # its streams tell no reason
            raise full from error
        raise BackendError(f"OpenVINO cannot write {path.name}: {reason_of(error)}") from error


def _refusal(error: Exception, origins: dict[str, str]) -> str:
    """OpenVINO names the kinds of ONNX ops that it cannot convert, ``Det-20``; add where each comes from."""
    listed = re.search(r"No conversion rule found for operations: (.+)", str(error))
    kinds = dict.fromkeys(re.findall(r"([\w.]+)-\d+", listed[1])) if listed else {}
    if not kinds:
        return f"OpenVINO cannot convert the model: {reason_of(error)}"
    places = [origin for origin in origins.values() if origin.split()[0] in {kind.split(".")[-1] for kind in kinds}]
    lines = "".join(f"\n    {place}" for place in places)
    return f"OpenVINO cannot convert {', '.join(kinds)}:{lines}\n  replace it by other ops before the build"


def _origins_of_outputs(path: Path, origins: dict[str, str]) -> dict[str, str]:
    """Origins by the name of an output of the model, which OpenVINO gives to the node that makes it."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    results = {value.name for value in graph.output}
    return {
        name: origins[node.name]
        for node in graph.node
        if node.name in origins
        for name in results.intersection(node.output)
    }
