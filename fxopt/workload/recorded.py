"""Inputs recorded in a file, for a model without data: enough to calibrate, and to measure the error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.errors import DataError, RecipeError, last_line
from fxopt.ir.program import Program
from fxopt.support.resources import resource_error
from fxopt.workload.batching import fixed_batch, has_rows, in_batches
from fxopt.workload.workload import Args, Split

_WAY_OUT = "save the inputs with numpy.save('inputs.npy', x), or numpy.savez('inputs.npz', name=x, …) for several"
_SHARE: dict[Split, tuple[float, float]] = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Arrays of a ``.npz`` file by name, or the one of a ``.npy`` file under an empty name; numbers, in this machine's order.

    Raises RecipeError for a file that is missing, damaged, of another kind, or that holds anything but numbers.
    """
    try:
        found = np.load(path, allow_pickle=False)
        arrays = {name: found[name] for name in found.files} if isinstance(found, np.lib.npyio.NpzFile) else {"": found}
    except FileNotFoundError:
        raise RecipeError(f"calibration: there is no file {path}") from None
    except Exception as error:  # numpy and zipfile raise many kinds for invalid bytes
        if full := resource_error(error):
            raise full from error
        raise RecipeError(f"calibration: {path} cannot be read: {last_line(error)}", way_out=_WAY_OUT) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or not _is_number(array.dtype):
            kind = getattr(array, "dtype", "bytes")
            raise RecipeError(
                f"calibration: {path} holds {name or 'an array'} of {kind}, which are no numbers", way_out=_WAY_OUT
            )
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}


def _is_number(dtype: np.dtype[Any]) -> bool:
    try:
        torch.from_numpy(np.empty(0, dtype.newbyteorder("=")))
    except TypeError:
        return False
    return True


class RecordedInputs:
    """Data (see :class:`fxopt.workload.Data`) from arrays [N, …], one for each tensor input of a program, without targets.

    Each holds N examples, of which batches are made. With a dim more than the input it holds N whole calls, [N, batch, …]: a
    program takes one at a time, as where an input has no batch, like the edges of a graph.
    The first half is for training and calibration, a quarter each for validation and test; of fewer than four examples
    all are in each. The metric ``agreement`` is 1 - noise / signal, 0 to 1, of the outputs against those of ``program``:
    how well a compiled model agrees with the original. Raises DataError where the arrays are not the program's inputs.
    """

    metric = "agreement"
    metric_of_original = 1.0

    def __init__(self, arrays: dict[str, Any], program: Program) -> None:
        inputs = {str(node.target): v for node, v in zip(program.inputs(), program.example_leaves(), strict=True)}
        names = [name for name, value in inputs.items() if isinstance(value, torch.Tensor)]
        if set(arrays) == {""} and len(names) == 1:
            arrays = {names[0]: arrays[""]}
        if set(arrays) != set(names):
            raise DataError(f"calibration holds {sorted(arrays)}, the model takes {program.signature()}")
        counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
        if len(set(counts.values())) != 1 or not min(counts.values()):
            raise DataError(f"calibration arrays need the same number of examples, one or more; got {counts}")
        self._calls = all(array.ndim == inputs[name].dim() + 1 for name, array in arrays.items())
        if not self._calls and (alone := _without_batch(program)) is not None:
            raise DataError(
                f"the input {alone.name!r} has no batch, so that examples cannot be put together",
                node=program.describe(alone),
                way_out="record whole calls: arrays with one dim more than the inputs, as numpy.stack makes of inputs",
            )
        self._tensors = {name: torch.from_numpy(arrays[name]) for name in names}
        self._inputs = inputs
        self._program = program

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``(args, None)``; ``seed`` shuffles. The args are flat, one for each input, numbers of the example included.

        Recorded calls come one at a time, whatever the ``batch_size``.
        """
        count = len(next(iter(self._tensors.values())))
        low, high = _SHARE[split] if count >= 4 else (0.0, 1.0)
        order = torch.arange(int(low * count), int(high * count))
        if seed is not None:
            order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))]
        for some in order if self._calls else order.split(batch_size):
            yield tuple(self._tensors[n][some] if n in self._tensors else v for n, v in self._inputs.items()), None

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Raise DataError: there are no targets to learn."""
        raise DataError("recorded inputs have no targets to train on; give a workload with data")

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """Agreement of ``model`` with the program, 0 to 1, over every floating output."""
        original = self._program if self._calls else in_batches(self._program, fixed_batch(self._program))
        spec = pytree.tree_structure((self._program.args, self._program.kwargs))
        signal = noise = 0.0
        for leaves, _ in self.batches(split, batch_size=16):
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            pairs = zip(*(pytree.tree_leaves(run(*args, **kwargs)) for run in (original, model)), strict=True)
            for want, got in pairs:
                if isinstance(want, torch.Tensor) and want.is_floating_point():
                    signal += want.double().pow(2).sum().item()
                    noise += (want.double() - torch.as_tensor(got).double()).pow(2).sum().item()
        return max(0.0, 1 - noise / signal) if signal else float(noise == 0)


def _without_batch(program: Program) -> fx.Node | None:
    """The first tensor input whose first size is fixed, where others have one that may vary; None where there is none."""
    if fixed_batch(program) is not None:
        return None
    tensors = [node for node in program.inputs() if isinstance(node.meta["val"], torch.Tensor)]
    return next((node for node in tensors if not has_rows(node)), None)
