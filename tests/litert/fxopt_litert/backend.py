"""The backend: build in the converter's environment, load with the runtime, which is a package for numpy alone."""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from fxopt.backend import Backend, Environment, Manifest, Runner
from fxopt.errors import BackendError
from fxopt.support.scratch import scratch_folder

if TYPE_CHECKING:
    from torch import fx

    from fxopt import Program, Target

MODEL_FILE = "model.tflite"
CONVERTER = Environment("litert", ("torch==2.13.0", "litert-torch==0.10.0"))
SCRIPT = Path(__file__).with_name("to_tflite.py")


@dataclass(frozen=True)
class Litert(Backend):
    """Write a file for LiteRT, once TensorFlow Lite, which runs on Android, iOS and small boards."""

    name: ClassVar[str] = "litert"
    artifact_is_code: ClassVar[bool] = False
    threads: Annotated[int, Ge(1)] = 1

    def refuses(self, node: fx.Node) -> str | None:
        """Why LiteRT has no form of a node: its op is none of torch's own."""
        from fxopt import op_name

        name = op_name(node)
        if name.startswith("quantized_decomposed."):
            return "this package converts programs in float alone"
        return None if name.startswith(("aten.", "getitem")) else "LiteRT's converter knows ops of torch alone"

    def legalize(self) -> str:
        """Writes and batch norms into the forms that the converter takes."""
        return "functionalize_writes, canonicalize_ops, fold_batch_norm"

    def largest_sizes(self, program: Program) -> dict[str, int]:
        """One example a call, as the file has fixed sizes. Raises BackendError for another dynamic dim."""
        found = {}
        for symbol, name in program.dims().items():
            if name != "batch":
                raise BackendError(
                    f"the dim {name} is dynamic, and a LiteRT file has fixed sizes",
                    got=program.signature(),
                    way_out="capture the model with a fixed size there",
                )
            found[symbol] = 1
        return found

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write ``model.tflite``. Raises BackendError with what the converter says."""
        from fxopt import save_program

        with scratch_folder() as scratch:
            save_program(program, scratch / "model.pt2")
            return CONVERTER.convert(SCRIPT, scratch / "model.pt2", out)

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Open the file in LiteRT's interpreter."""
        if reason := _no_runtime():
            raise BackendError(reason)
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(folder / MODEL_FILE), num_threads=self.threads)
        run = interpreter.get_signature_runner()
        given, results = (_by_place(found) for found in (run.get_input_details(), run.get_output_details()))
        lock = threading.Lock()  # an interpreter has one set of buffers

        def call(arrays: list[Any]) -> list[Any]:
            with lock:
                found = run(**dict(zip(given, arrays, strict=True)))
            return [found[name] for name in results]

        return call

    def missing(self) -> str | None:
        """The runtime, or the converter's environment."""
        return _no_runtime() or CONVERTER.missing()


def _no_runtime() -> str | None:
    there = importlib.util.find_spec("ai_edge_litert") is not None
    return None if there else "ai_edge_litert is not installed: pip install ai-edge-litert"


def _by_place(details: dict[str, Any]) -> list[str]:
    """Inputs or outputs in order; the converter names them by place, as in ``args_0`` and ``output_12``."""
    return sorted(details, key=lambda name: int(name.rpartition("_")[2]))
