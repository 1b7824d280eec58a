"""Running a ``.pte`` file with ExecuTorch's library for Python, which is linked with torch's."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxopt.backend import not_installed
from fxopt.errors import BackendError, UsageError
from fxopt.support.quieted import quieted
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


class Model:
    """A file that is loaded for a number of ``threads``, None for all cores that the process may use; called on numpy arrays.

    ExecuTorch has one thread pool for the process, and what was loaded points into it: a model that runs after one with
    another number of threads sets the pool anew and loads its file again, for which all others are unloaded first.
    Raises BackendError where the runtime refuses the file.
    """

    def __init__(self, path: Path, threads: int | None, *, traced: bool = False) -> None:
        """With ``traced`` the ``program`` notes what each kernel takes."""
        self._path, self._threads, self._traced = path, threads or usable_cores(), traced
        self.program: Any = None
        self._method: Any = None
        _LOADED.add(self)
        self._load()

    def __call__(self, arrays: list[Any]) -> list[Any]:
        """Flat outputs for flat inputs. Raises UsageError where the runtime refuses these."""
        self._load()
        given = [_tensor(array) for array in arrays]
        try:
            outputs = self._method(given)
        except RuntimeError as error:
            raise UsageError(f"ExecuTorch refused the inputs: {error}") from error
        return [out.numpy() for out in outputs]

    def unload(self) -> None:
        """Free what was loaded; the next call loads it again."""
        self._method = self.program = None

    def _load(self) -> None:
        extension = library()
        with contextlib.redirect_stderr(io.StringIO()) as told:  # it tells what files it looks for, and each new pool
            try:
                if extension._threadpool_get_thread_count() != self._threads:
                    for model in list(_LOADED):
                        model.unload()
                    extension._unsafe_reset_threadpool(self._threads)
                if self._method is None:
                    self.program = extension._load_program(
                        str(self._path),
                        enable_etdump=self._traced,
                        program_verification=extension.Verification.InternalConsistency,
                    )
                    self._method = self.program.load_method(_METHOD)
            except RuntimeError as error:
                lines = [line.strip() for line in told.getvalue().splitlines()]
                raise BackendError(
                    f"ExecuTorch cannot load {self._path.name}: {error}",
                    got="; ".join(lines[-3:]) or None,
                    way_out="was it built by another version of ExecuTorch? build it again with this one",
                ) from error


def _tensor(array: Any) -> Any:
    """The array as a tensor; without elements it is made anew, as the process ends of the strides that numpy gives it."""
    import numpy as np
    import torch

    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return tensor if tensor.numel() else torch.empty(tensor.shape, dtype=tensor.dtype)


_LOADED: weakref.WeakSet[Model] = weakref.WeakSet()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ExecuTorch and torchao warn at import and at every step, and give the root logger a handler."""
    handlers = list(logging.root.handlers)
    try:
        with quieted("torchao", "torch.utils._pytree", "torch.export"), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.root.handlers[:] = handlers
