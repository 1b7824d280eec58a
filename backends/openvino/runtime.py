"""Running an OpenVINO model on the processor; nothing here needs torch or onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fxopt.backend import Runner
from fxopt.errors import BackendError, UsageError

MODEL_FILE = "model.xml"
Precision = Literal["auto", "f32", "bf16", "f16"]
_CAPABILITIES: dict[str, Precision] = {"BF16": "bf16", "FP16": "f16"}
"""Names of precisions in the properties of OpenVINO's device."""


def new_core() -> Any:
    """An OpenVINO core, which reads and compiles models. Raises BackendError where OpenVINO is not installed."""
    try:
        import openvino
    except ImportError:
        raise BackendError("OpenVINO is not installed: pip install 'fxopt[openvino-runtime]'") from None
    return openvino.Core()


def properties(threads: int | None, precision: str, hint: str) -> dict[str, Any]:
    """OpenVINO's properties for the options of the backend; what is left out OpenVINO chooses itself.

    Its dynamic quantization is off: it would round the activations of every linear whose weight is stored in integers.
    Threads are not pinned to cores: pinned ones wait behind whatever else runs there, while another core may be free.
    """
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": hint.upper(), "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }  # fmt: skip
    if threads is not None:
        chosen["INFERENCE_NUM_THREADS"] = threads
    if precision != "auto":
        chosen["INFERENCE_PRECISION_HINT"] = precision
    return chosen


def native_precisions() -> tuple[Precision, ...]:
    """Precisions of float that this processor computes in: f32 first. Raises BackendError without OpenVINO."""
    told = new_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", *(precision for name, precision in _CAPABILITIES.items() if name in told))


def compile_model(path: Path, chosen: dict[str, Any]) -> Any:
    """Read and compile a model for the processor. Raises BackendError where OpenVINO refuses it."""
    core = new_core()
    try:
        return core.compile_model(core.read_model(path), "CPU", chosen)
    except Exception as error:
        raise BackendError(f"OpenVINO cannot load {path.name}: {reason_of(error)}") from error


def make_runner(path: Path, chosen: dict[str, Any]) -> Runner:
    """Compile a model and return what runs it, on numpy arrays in the order of its inputs. Raises BackendError."""
    import numpy as np

    compiled = compile_model(path, chosen)
    request = compiled.create_infer_request()
    names = [value.get_any_name() for value in compiled.inputs]
    outputs = list(compiled.outputs)

    def run(arrays: list[Any]) -> list[Any]:
        if len(arrays) > len(names):  # an input without elements is left out of the model
            arrays = [array for array in arrays if array.size]
        for name, array in zip(names, arrays, strict=True):
            if array.dtype == np.int64 and array.size and not _fits_32_bits(array):
                raise UsageError(f"OpenVINO computes in integers of 32 bits; input {name!r} holds larger ones")
        try:
            request.infer(dict(enumerate(arrays)), share_inputs=True)
        except Exception as error:
            raise UsageError(f"OpenVINO refused the inputs: {reason_of(error)}") from error
        return [np.array(request.get_tensor(output).data) for output in outputs]

    return run


def _fits_32_bits(array: Any) -> bool:
    import numpy as np

    bounds = np.iinfo(np.int32)
    return bool(bounds.min <= array.min() and array.max() <= bounds.max)


def reason_of(error: BaseException) -> str:
    """The line of an OpenVINO error that says what is wrong: the last that is not a place in OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '", "[CPU] Exception"))]
    return (told or lines or [type(error).__name__])[-1]
