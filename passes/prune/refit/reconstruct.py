"""Refit what reads pruned channels, so that it gives what it gave before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt.errors import DataError
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.importance.calibration_batches import calibration_batches
from fxopt.passes.prune.refit.least_squares import RIDGES, fitted
from fxopt.passes.prune.refit.lockstep import Lockstep
from fxopt.passes.prune.refit.rows import Layer, layer_of
from fxopt.program import Program

_SINGLE_ZEROS = 0.01
_FEWEST_ROWS = 10


@dataclass(frozen=True)
class Refit:
    """A layer's error, norm of the difference over norm of the output, on rows that were not fitted: before and after."""

    node: str
    zeroed: float
    refitted: float


def reconstruct(
    before: Program,
    program: Program,
    sweep: Sweep,
    dead: NDArray[np.bool_],
    *,
    samples: int,
    who: str,
    positions: int = 10,
    ridge: float | None = None,
    seed: int = 0,
) -> list[Refit]:
    """Fit the weights that are left of every layer that reads dead atoms; ``program`` is ``before`` with these zeroed.

    With Y what the layer gave in ``before``, and X what it reads now, behind layers that were refitted already, the weight
    becomes W + Δ with the least ‖Y - X(W + Δ)‖² + λ‖Δ‖² (He, Zhang & Sun 2017, eq. 1, its second step; the regression
    towards the weights as they are instead of 0 keeps what few rows cannot tell). The bias, where there is one, is refitted
    too. λ is ``ridge`` times the mean square of X's principal values; by default it is chosen by the rows that every fit
    leaves out, and where no fit is better there than none, the layer stays as it is. X has ``positions`` rows for each
    of ``samples`` training examples (10 in the paper). Both programs run once, node by node.

    What was zero stays zero: channels, dead rows. A layer is left alone, with the reason, if its weight is shared,
    computed or sparse, or its op is none that this knows. Raises DataError in the name of ``who`` without usable data.
    """
    wanted = _layers(program, sweep, dead)
    if not wanted:
        return []
    batches = list(calibration_batches(program, samples, who))
    generator = torch.Generator().manual_seed(seed)
    done = []
    with torch.no_grad():
        twins = Lockstep(before.copy(), program.copy(), batches)
        for name in twins.names:
            twins.run(name)
            if name in wanted:
                layer, gone = wanted[name]
                x, lack, size = _rows(program, twins, layer, positions, generator, who)
                refit = _refit(program, twins, layer, gone, x, lack, size, RIDGES if ridge is None else (ridge,))
                done += [refit] if refit else []
            twins.free(name)
    return done


def _layers(
    program: Program, sweep: Sweep, dead: NDArray[np.bool_]
) -> dict[str, tuple[Layer, NDArray[np.bool_] | None]]:
    """Layers that read dead atoms, by name, with their dead rows; the others get their reason."""
    readers: dict[int, list[fx.Node]] = {}
    for node in program.graph.nodes:
        tensor = program.tensor(node)
        if tensor is not None:
            readers.setdefault(id(tensor), []).extend(node.users)
    nodes = {node.name: node for node in program.graph.nodes}
    found: dict[str, tuple[Layer, NDArray[np.bool_] | None]] = {}
    for contraction in sweep.contractions:
        if contraction.weight is None or not dead[sweep.resolve(contraction.rows)].any():
            continue
        node, weight = nodes[contraction.node.name], nodes[contraction.weight.name]
        tensor = program.tensor(weight)
        layer: Layer | str = "its weight is computed, not stored: run fold_constants first"
        if tensor is not None:
            shared = readers[id(tensor)] != [node]
            layer = "its weight is read in several places" if shared else layer_of(node, weight)
        if isinstance(layer, str):
            program.skip(node, f"not refitted: {layer}")
            continue
        if layer.bias is not None and readers.get(id(program.tensor(layer.bias))) != [node]:
            layer = Layer(node, layer.data, weight, None, layer.groups, layer.transposed)
        rows = (
            None if contraction.weight_rows is None else np.asarray(dead[sweep.resolve(contraction.weight_rows)].any(1))
        )
        found[node.name] = layer, rows
    return found


def _rows(
    program: Program, twins: Lockstep, layer: Layer, positions: int, generator: torch.Generator, who: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows ``[groups, n, in, kernel]`` of what it reads, ``[n, groups, out]`` of what its output lacks, and of the output."""
    reads, lacks, outputs = [], [], []
    for batch in range(len(twins.after)):
        examples = next((len(v) for v in twins.leaves[batch] if isinstance(v, torch.Tensor) and v.dim()), 1)
        wanted, got = twins.values(layer.node.name, batch)
        read = twins.values(layer.data.name, batch)[1]
        state = generator.get_state()
        x, output = layer.rows(read, wanted, positions * examples, generator)
        generator.set_state(state)  # the same positions again
        _, given = layer.rows(read, got, positions * examples, generator)
        reads.append(x.double())
        lacks.append(output.double() - given.double())
        outputs.append(output.double())
    x, lack, output = torch.cat(reads, 1), torch.cat(lacks), torch.cat(outputs)
    if not bool(lack.isfinite().all() & x.isfinite().all()):
        raise DataError(f"{who}: reconstruction met NaN or infinity\n    {program.describe(layer.node)}")
    return x, lack, output


def _refit(
    program: Program,
    twins: Lockstep,
    layer: Layer,
    gone: NDArray[np.bool_] | None,
    x: torch.Tensor,
    lack: torch.Tensor,
    output: torch.Tensor,
    ridges: Sequence[float],
) -> Refit | None:
    """Fit one layer and store its new weight in both the program and its twin; None, with the reason, where that fails."""
    old = program.tensors()[str(layer.weight.target)].detach()
    matrix = layer.matrix(old).to(torch.float64, copy=True)  # [groups, out, in, kernel]
    rows = matrix.flatten(2).any(2)
    if gone is not None:
        rows &= ~torch.from_numpy(gone).reshape(rows.shape)
    columns = matrix.any(3).any(1)
    bias = None if layer.bias is None else program.tensors()[str(layer.bias.target)].detach()
    shift = torch.zeros(rows.shape, dtype=torch.float64)
    without = error = whole = 0.0
    for group in range(layer.groups):
        out, channels = rows[group].nonzero()[:, 0], columns[group].nonzero()[:, 0]
        left = matrix[group][out][:, channels]
        if reason := _declined(left, lack):
            program.skip(layer.node, f"not refitted: {reason}")
            return None
        read, lacking = x[group][:, channels].flatten(1), lack[:, group][:, out]
        fit = fitted(read, lacking, shifted=bias is not None, ridges=ridges)
        matrix[group, out[:, None], channels] += fit.change.T.unflatten(1, (len(channels), -1))
        shift[group, out] = fit.shift
        without, error = without + fit.error_without, error + fit.error
        whole += float(output[len(lack) - len(lack) // 5 :, group][:, out].square().sum())
    if not error < without:
        program.skip(layer.node, "not refitted: on examples that were left out it would be no better")
        return None
    changed = [(layer.weight, layer.stored(matrix, old))]
    if layer.bias is not None and bias is not None:
        changed.append((layer.bias, (bias.double() + shift.flatten()).to(bias.dtype)))
    for node, tensor in changed:
        program.set_tensor(str(node.target), tensor)
        twins.set_weight(node.name, tensor.clone())
    twins.run_again(layer.node.name)
    return Refit(layer.node.name, (without / whole) ** 0.5, (error / whole) ** 0.5)


def _declined(left: torch.Tensor, lack: torch.Tensor) -> str | None:
    """Why the cells ``[out, in, kernel]`` that are left cannot be fitted."""
    if not left.numel():
        return "all of its weight is zero"
    if float((left == 0).double().mean()) > _SINGLE_ZEROS:
        return "it has single zeros, which would be filled"
    return "there are too few rows of data" if len(lack) < _FEWEST_ROWS else None
