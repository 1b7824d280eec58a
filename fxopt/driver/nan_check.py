"""NaN in the inputs: whether an artifact propagates it as eager does. Vector instructions for a maximum drop it."""

from __future__ import annotations

import numpy as np
import torch

from fxopt.ir.program import Program
from fxopt.numerics.execute import run
from fxopt.runtime.artifact import Artifact


def nan_note(program: Program, artifact: Artifact) -> str | None:
    """A note on how an artifact of ``program`` treats NaN in its inputs; None where it does as eager does.

    One element in the middle of each float input is NaN; only where the outputs are NaN is compared.
    """
    leaves = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in program.example_leaves()]
    floats = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel()]
    if not floats or any(leaf.dtype == torch.bfloat16 for leaf in floats):  # numpy has no bfloat16
        return None
    for leaf in floats:
        leaf.view(-1)[leaf.numel() // 2] = torch.nan
    try:
        want = run(program, leaves, wide=False).outputs
        got = artifact.runner([leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)])
    except Exception as error:  # the runtime's, or of a model that asserts
        return f"NaN in the inputs is an error: {type(error).__name__}"
    pairs = zip([value for value in want if isinstance(value, torch.Tensor)], got, strict=True)
    if all(not a.is_floating_point() or np.array_equal(a.isnan().numpy(), np.isnan(b)) for a, b in pairs):
        return None
    return "NaN in the inputs does not reach all outputs that eager gives it in: check inputs before the model"
