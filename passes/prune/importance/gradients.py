"""Gradients of the training loss by weight, for criteria that are driven by data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.errors import DataError, FxoptError
from fxopt.ir.alias_analysis import alias_sets, make_functional, written
from fxopt.ir.input_check import misfit
from fxopt.ir.op_table import arguments, running_statistics, set_argument
from fxopt.ir.placement import place
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.ir.transfer import put, repeatable, take
from fxopt.ir.widened import widened_for_good
from fxopt.numerics.compute_device import seeded
from fxopt.workload import Data, Workload, training_workload
from fxopt.workload.batching import cut, fixed_batch, in_batches

_BATCH = 16
"""Examples in one backward pass, at most: enough to keep a processor busy, and little memory compared with training."""


def mean_gradients(
    program: Program, workload: Workload | None, who: str, *, samples: int = 64, seed: int = 0, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """The mean gradient of the workload's training loss by every floating weight, over ``samples`` examples at most.

    Tensors by weight name, of the weight's shape, float32 or wider; tied weights have one tensor under several names, a
    weight without influence zeros. The loss of a batch is taken for the mean of its examples', as in training; a last
    batch has the weight of its size. The examples are shuffled by ``seed``; for a larger fixed batch size they are padded
    with copies, which the loss leaves out. Batch norm and dropout are in evaluation mode. All runs on a copy: ``program``
    does not change. Buffers that are statistics or that the graph writes to are not among the weights. Raises DataError in
    the name of ``who`` without data, where an example does not fit, or where there is no finite loss or gradient, and
    PassError for a graph that writes into a parameter.
    """
    size = samples // -(-samples // _BATCH)
    run = _Backward(program, workload, who, seed, device)
    total, seen = run.zeros(), 0
    for batch_size in dict.fromkeys((size, 1)):
        for rows, found in run.batches(batch_size, samples // batch_size):
            for key, gradient in found.items():
                total[key].add_(gradient, alpha=rows)
            seen += rows
        if seen:
            break  # otherwise the data drop an incomplete last batch, and have no full one
    return run.named(total, seen)


def squared_gradients(
    program: Program, workload: Workload | None, who: str, *, samples: int = 64, seed: int = 0, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """The mean over examples of g², with g the gradient by a weight as in :func:`mean_gradients`; it raises the same.

    It is the diagonal of the empirical Fisher information (Martens 2020, "New insights and perspectives on the natural
    gradient method"). The examples come one at a time: it is not the square of a batch's mean gradient.
    """
    run = _Backward(program, workload, who, seed, device)
    total, seen = run.zeros(), 0
    for rows, found in run.batches(1, samples):
        for key, gradient in found.items():
            total[key] += gradient.to(total[key].dtype) ** 2
        seen += rows
    return run.named(total, seen)


class _Backward:
    """Gradients of the loss, batch by batch, on a differentiable copy of a program. Weights go by identity: some are tied."""

    def __init__(self, program: Program, workload: Workload | None, who: str, seed: int, device: str) -> None:
        self.workload, self.who, self.seed = training_workload(workload, who), who, seed
        self.data = self.workload.need_data(who)
        self.twin = shared_copy(program, widened_for_good(program.tensors().values()))
        place(self.twin, torch.device(device))
        _make_differentiable(self.twin)
        self.weights = {id(t): t for t in self.twin.tensors().values() if t.requires_grad}

    def zeros(self) -> dict[int, torch.Tensor]:
        return {
            key: torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32), requires_grad=False)
            for key, t in self.weights.items()
        }

    def batches(self, batch_size: int, count: int) -> Iterator[tuple[int, dict[int, torch.Tensor]]]:
        """The number of examples and the gradients of each of ``count`` batches, or of fewer where the data end."""
        weights = list(self.weights.values())
        with (
            seeded(self.twin.device, self.seed),  # data or a graph may draw
            repeatable(self.twin.device),
            torch.enable_grad(),
            _keeping_what_is_written_over(self.twin),
        ):
            batches = self.data.batches("train", batch_size=batch_size, seed=self.seed)
            for number, (args, target) in enumerate(islice(batches, count), 1):
                where = f"{self.who}: training batch {number} of {self.workload.name!r}"
                found = _backward(self.twin, _loss(self.twin, self.data, args, target, where), weights, where)
                leaf = next((v for v in pytree.tree_leaves(args) if isinstance(v, torch.Tensor) and v.dim()), None)
                rows = batch_size if leaf is None else min(len(leaf), batch_size)
                yield rows, dict(zip(self.weights, found, strict=True))

    def named(self, total: dict[int, torch.Tensor], seen: int) -> dict[str, torch.Tensor]:
        """The mean over the examples seen, by the weights' names."""
        if not seen:
            raise DataError(f"{self.who}: the workload {self.workload.name!r} gave no training batch")
        for tensor in total.values():
            tensor /= seen
        return {name: take(total[id(t)]) for name, t in self.twin.tensors().items() if t.requires_grad}


def _make_differentiable(twin: Program) -> None:
    """Evaluation mode, and weights that require gradients. Raises PassError where it writes into a parameter."""
    make_functional(twin)
    sets = alias_sets(twin.graph)
    dirty = {sets[target]: node for node in twin.graph.nodes for target in written(node)}
    state = set(_statistics(twin))
    for node in twin.graph.find_nodes(op="get_attr"):
        tensor = twin.tensor(node)
        if tensor is None:
            continue
        writer = dirty.get(sets[node])
        if writer is not None and isinstance(tensor, torch.nn.Parameter):
            raise twin.fail(writer, f"it writes into the weight {str(node.target)!r}, which can have no gradient then")
        tensor.requires_grad_(tensor.is_floating_point() and writer is None and node not in state)
    twin.module.recompile()


def _statistics(twin: Program) -> Iterator[fx.Node]:
    """Switch batch norm and dropout to evaluation; yield the nodes that are running statistics."""
    for node in twin.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        call = arguments(node)
        yield from running_statistics(node)
        for flag in ("training", "train", "use_input_stats"):
            if call.get(flag) and call.get("running_mean", node) is not None:  # without statistics it needs the batch's
                set_argument(node, flag, False)
        if call.get("dropout_p"):
            set_argument(node, "dropout_p", 0.0)


def _keeping_what_is_written_over(twin: Program) -> contextlib.AbstractContextManager[Any]:
    """Autograd needs values that an in-place op may overwrite: where there is one, it gets copies, at a price."""
    if any(written(node) for node in twin.graph.nodes):
        return torch.autograd.graph.allow_mutation_on_saved_tensors()
    return contextlib.nullcontext()


def _loss(twin: Program, data: Data, args: tuple[Any, ...], target: Any, where: str) -> torch.Tensor:
    run = runner_for(twin, args, where)
    args, target = put((args, target), twin.device)
    try:
        output = run(*args)
    except Exception as error:
        raise DataError(f"{where}: the program failed: {type(error).__name__}: {error}") from error
    try:
        loss = data.loss(output, target)
    except FxoptError:
        raise
    except Exception as error:
        raise DataError(f"{where}: its loss failed: {type(error).__name__}: {error}") from error
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise DataError(
            f"{where}: the loss must be one number that depends on the weights (not detached), got {loss!r}"
        )
    if not bool(loss.isfinite()):
        raise DataError(f"{where}: the loss is {loss.item()}; look at the data, or at the weights")
    return loss


def runner_for(twin: Program, args: tuple[Any, ...], where: str) -> Any:
    """The module as a function of ``args``, which runs in batches of its own size where theirs differs."""
    problem = misfit(twin, args, {})
    if problem is None:
        return twin.module
    least = (twin.ranges.get(symbol, (1, None))[0] for symbol, name in twin.dims().items() if name == "batch")
    size = fixed_batch(twin) or next(least, None)
    leaves, spec = pytree.tree_flatten(args)
    rows = bool(leaves) and all(
        isinstance(v, torch.Tensor) and v.dim() and len(v) == len(leaves[0]) > 0 for v in leaves
    )
    if size and rows and misfit(twin, pytree.tree_unflatten(next(cut(leaves, size)), spec), {}) is None:
        return in_batches(twin.module, size)
    raise DataError(f"{where} does not fit the program: {problem}")


def _backward(twin: Program, loss: torch.Tensor, weights: list[torch.Tensor], where: str) -> list[torch.Tensor]:
    try:
        found = torch.autograd.grad(loss, weights, allow_unused=True)
    except RuntimeError as error:
        raise DataError(f"{where}: the program has no gradient: {error}") from error
    used = [gradient for gradient in found if gradient is not None]
    if not bool(torch.nn.utils.get_total_norm(used).isfinite()):  # all at once, before each one
        names = {id(tensor): name for name, tensor in twin.tensors().items()}
        for weight, gradient in zip(weights, found, strict=True):
            if gradient is not None and not bool(gradient.isfinite().all()):
                raise DataError(f"{where}: the gradient by the weight {names[id(weight)]!r} is not finite")
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
