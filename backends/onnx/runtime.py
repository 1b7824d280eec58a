"""Running an ONNX model with ONNX Runtime; nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fxopt.backend import Runner
from fxopt.errors import BackendError, UsageError
from fxopt.target.detect import usable_cores

MODEL_FILE = "model.onnx"
_GPU = "CUDAExecutionProvider"
_LEVELS = {
    "all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "basic": "ORT_ENABLE_BASIC", "disabled": "ORT_DISABLE_ALL",
}  # fmt: skip


def session_options(threads: int | None, level: str, arena: bool) -> Any:
    """ONNX Runtime session options; ``threads`` None is all cores that the process may use. Raises BackendError."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise BackendError("ONNX Runtime is not installed: pip install 'fxopt[onnx-runtime]'") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3
    return options


def disabled_optimizers(float16: bool) -> list[str]:
    """What the runtime must leave alone in a model, which holds numbers in ``float16`` or does not.

    Its own quantization of weights that stand between quantized activations: a layer that a recipe keeps in float stays in
    float. And in a model with float16, the fusion of a transpose into the product behind it: in version 1.32 the process
    ends of it, as NchwcTransformer reads a shape that the cast moved past the transpose lacks.
    """
    return ["WeightBiasQuantization"] + ["MatmulTransposeFusion"] * float16


def cannot_run_on_gpu() -> str | None:
    """Why the runtime installed here runs nothing on an NVIDIA GPU; None if it does."""
    import onnxruntime as ort

    if _GPU in ort.get_available_providers():
        return None
    return "the ONNX Runtime here has no kernels for NVIDIA GPUs: pip install onnxruntime-gpu, in place of onnxruntime"


def open_session(path: Path, options: Any, *, float16: bool = False, gpu: bool = False) -> Any:
    """Open a model, which holds numbers in ``float16`` or does not. Raises BackendError where the runtime refuses it.

    With ``gpu`` nodes run on an NVIDIA GPU, and those that have no kernel there on the processor.
    """
    import onnxruntime as ort

    try:
        return ort.InferenceSession(
            str(path),
            options,
            [_GPU] * gpu + ["CPUExecutionProvider"],
            disabled_optimizers=disabled_optimizers(float16),
        )
    except Exception as error:
        reason = str(error).strip()
        hint = (
            "\n  it has kernels for float32 mostly: cast the model with .float()" if "NOT_IMPLEMENTED" in reason else ""
        )
        raise BackendError(f"ONNX Runtime {ort.__version__} cannot load {path.name}: {reason}{hint}") from error


def make_runner(
    path: Path, threads: int | None, level: str, arena: bool, *, float16: bool = False, gpu: bool = False
) -> Runner:
    """Open a model and return what runs it, on numpy arrays in the order of its inputs. Raises BackendError."""
    session = open_session(path, session_options(threads, level, arena), float16=float16, gpu=gpu)
    names = [value.name for value in session.get_inputs()]

    def run(arrays: list[Any]) -> list[Any]:
        try:
            outputs: list[Any] = session.run(None, dict(zip(names, arrays, strict=True)))
        except Exception as error:
            raise UsageError(f"ONNX Runtime refused the inputs: {str(error).splitlines()[0]}") from error
        return outputs

    return run
