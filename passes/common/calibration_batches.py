"""Calibration examples as flat inputs that a program takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.ir.transfer import put
from fxopt.workload import Workload, given_workload
from fxopt.workload.batching import cut, examples, fits, fixed_batch


def calibration_batches(program: Program, workload: Workload | None, samples: int, who: str) -> Iterator[list[Any]]:
    """Yield the flat inputs of batches with ``samples`` training examples or more, of the size that the program takes.

    Raises DataError in the name of ``who`` where there are none, or where they do not fit.
    """
    workload = given_workload(workload, who, "data")
    seen = False
    for args in workload.calibration(samples, who):
        for leaves in fitting_batches(program, args):
            seen = True
            yield leaves
    if not seen:
        raise DataError(f"{who}: the workload {workload.name!r} gave no calibration batch")


def fitting_batches(program: Program, args: tuple[Any, ...]) -> Iterable[list[Any]]:
    """Flat inputs as the program takes them: checked, on its device, and in batches of another size where its own is fixed."""
    leaves = pytree.tree_leaves((args, {}))
    nodes = program.inputs()
    got = ", ".join(f"{v.dtype}{list(v.shape)}".replace("torch.", "") for v in leaves if isinstance(v, torch.Tensor))
    if len(leaves) != len(nodes):
        raise DataError(f"calibration gives {len(leaves)} input(s) ({got}), the program takes {program.signature()}")
    for node, leaf in zip(nodes, leaves, strict=True):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            raise DataError(f"calibration gives NaN or infinity in input {node.target!r}; clean the data")
    size = fixed_batch(program)
    count = examples(leaves)
    tensors = [v for v in leaves if isinstance(v, torch.Tensor)]
    if size and count != size and all(v.dim() and len(v) == count for v in tensors):
        for batch in cut(leaves, size):
            yield from fitting_batches(program, tuple(batch))
        return
    for node, leaf in zip(nodes, leaves, strict=True):
        want = node.meta["val"]
        if isinstance(want, torch.Tensor) and not fits(node, leaf):
            raise DataError(
                f"calibration gives {got} for input {node.target!r}, "
                f"the program takes {type_text(want, program.dims())}"
            )
    yield put(leaves, program.device)
