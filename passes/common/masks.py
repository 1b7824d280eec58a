"""Masks: where weights are zero, how they are set so, and kept so while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from fxopt.ir.program import Program
from fxopt.passes.common.stored_weights import layer_weights


def masks(program: Program) -> dict[str, torch.Tensor]:
    """Masks bool of the weights of contractions that hold exact zeros, False where zero; by name, of the weight's shape.

    A tied weight has its mask under each of its names. A layer that was initialised to zero is masked like any other.
    """
    found = [w for w in layer_weights(program)[0] if not w.quantized and bool((w.tensor == 0).any())]
    return {name: w.tensor.detach() != 0 for w in found for name in w.names}


def keep_masks(program: Program) -> Callable[[], None]:
    """A callback for after each step of an optimizer: it sets to zero again what is zero now.

    It works in place on the parameters of ``program.module``, those of now, without gradient. The optimizer may have
    momentum: only the result of its step is masked.
    """
    tensors = program.tensors()
    zeros = [(tensors[name], ~mask) for name, mask in masks(program).items()]

    def keep() -> None:
        with torch.no_grad():
            for tensor, zero in zeros:
                tensor.masked_fill_(zero, 0)

    return keep


def store_masked(program: Program, keep: Mapping[str, torch.Tensor]) -> None:
    """Store weights anew with zeros where their mask bool, of a shape that broadcasts to theirs, is False.

    Nothing is changed in place. A tied weight stays tied: it is masked under all its names, by each mask that is given.
    """
    for name, mask in keep.items():
        program.set_tensor(name, program.tensors()[name].detach().masked_fill(~mask, 0))


def cubic_sparsity(step: int, begin: int, end: int, initial: float, final: float) -> float:
    """Sparsity, 0 to 1, at a step of gradual pruning from ``initial`` at ``begin`` to ``final`` at ``end`` and after.

    s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Δt))³ (Zhu & Gupta 2017, eq. 1), with n Δt = end - begin: fast while
    many weights are redundant, slow towards the end. Raises ValueError unless begin < end.
    """
    if begin >= end:
        raise ValueError(f"gradual pruning begins before it ends, got begin={begin}, end={end}")
    left = 1 - min(max(step - begin, 0) / (end - begin), 1)
    return final + (initial - final) * left**3
