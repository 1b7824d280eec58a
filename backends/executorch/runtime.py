"""Running a ``.pte`` file with ExecuTorch's library for Python, which is linked with torch's."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fxopt.backend import Runner, not_installed
from fxopt.errors import BackendError, UsageError
from fxopt.target.detect import usable_cores

MODEL_FILE = "model.pte"
_METHOD = "forward"


def missing() -> str | None:
    """The package that building or running needs and that is not installed."""
    return not_installed(("torch", "executorch"), "executorch")


def library() -> Any:
    """ExecuTorch's extension module. Raises BackendError where it, or torch, cannot be imported.

    ``executorch.runtime`` would import the compiler too.
    """
    if reason := missing():
        raise BackendError(reason)
    importlib.import_module("torch")  # its libraries have to be loaded before
    try:
        return importlib.import_module("executorch.extension.pybindings._C")
    except ImportError as error:
        raise BackendError(
            f"ExecuTorch's library cannot be loaded: {error}",
            way_out="it is built for one version of torch: pip install 'fxopt[executorch]' -c constraints.txt",
        ) from error


def make_runner(path: Path, threads: int | None) -> Runner:
    """Load a model and return what runs it, on numpy arrays in the order of its inputs. Raises BackendError.

    The threads are those of the process: a model that wants another number than the one that ran before sets it.
    """
    import torch

    method = load_method(load_file(path), path)
    wanted = threads or usable_cores()

    def run(arrays: list[Any]) -> list[Any]:
        set_threads(wanted)
        given = [torch.from_numpy(np.require(array, requirements="CW")) for array in arrays]
        try:
            outputs = method(given)
        except RuntimeError as error:
            raise UsageError(f"ExecuTorch refused the inputs: {error}") from error
        return [out.numpy() for out in outputs]

    return run


def load_file(path: Path, *, traced: bool = False) -> Any:
    """Read a file; ``traced`` to note what each kernel takes. Raises BackendError where the runtime refuses it."""
    extension = library()
    with _loading(path):
        return extension._load_program(str(path), enable_etdump=traced)


def load_method(program: Any, path: Path) -> Any:
    """The model's one function, with memory planned and weights packed. Raises BackendError where the runtime refuses it."""
    with _loading(path):
        return program.load_method(_METHOD)


def set_threads(wanted: int) -> None:
    """Let the process's thread pool have that many threads."""
    extension = library()
    if extension._threadpool_get_thread_count() != wanted:
        extension._unsafe_reset_threadpool(wanted)


@contextlib.contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Keep what the library's own code prints, as it looks for files that tell of the processor, for its errors alone."""
    with tempfile.TemporaryFile() as told:
        try:
            with _stderr_to(told.fileno()):
                library()._threadpool_get_thread_count()
                yield
        except RuntimeError as error:
            told.seek(0)
            lines = told.read().decode(errors="replace").splitlines()
            raise BackendError(
                f"ExecuTorch cannot load {path.name}: {error}",
                got="; ".join(line.strip() for line in lines[-3:]) or None,
                way_out="was it built by another version of ExecuTorch? build it again with this one",
            ) from error


@contextlib.contextmanager
def _stderr_to(file: int) -> Iterator[None]:
    """What is written to the process's standard error goes to a file, also where no handler of Python's sees it."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        os.dup2(file, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
