"""Tolerances after a pass. That of the replay in float64 is the pass's own, 1e-9 unless it gives a reason."""

from __future__ import annotations

import torch

from fxopt.ir.program import Program

WEIGHT_ROUNDING = 32
"""Units in the last place by which a stored weight may differ from the replay in float64."""

STORED_TOLERANCE = 1e-5
"""Relative error of values in float64 where stored weights differ by more, as they are not unique or ill-conditioned."""

OWN_TOLERANCE = 1e-4
"""Relative error of values in the program's own precision."""

ROUNDING = 30
"""A model that amplifies rounding gets a larger tolerance: this many times the error of its own precision."""

DISCRETE_TOLERANCE = 0.01
"""Share of the elements of an integer output that rounding may change, after a pass that was proved in float64."""


def weight_tolerance(program: Program) -> float:
    """Relative error allowed to stored weights: 3.8e-6 where some are float32; 0 where none is floating."""
    dtypes = {t.dtype for t in program.tensors().values() if t.is_floating_point()}
    return WEIGHT_ROUNDING * max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
