"""Values of the leaves of a region for a trial."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.numerics.edge_values import edge_tensor
from fxopt.numerics.probe_inputs import size_with
from fxopt.pass_manager.regions.profile import Profile, in_image
from fxopt.pass_manager.regions.region import Region, is_size
from fxopt.pass_manager.regions.trials import Trial


class LeafValues:
    """Creates values for leaves, which are nodes of one program."""

    def __init__(self, before: Program) -> None:
        self._examples = dict(zip(before.inputs(), before.example_leaves(), strict=True))

    def of(self, region: Region, trial: Trial, profile: Profile) -> dict[fx.Node, Any]:
        """A value for each leaf. Raises TypeError where a size depends on values."""
        return {leaf: self._of_leaf(leaf, trial, profile, i) for i, leaf in enumerate(region.leaves)}

    def _of_leaf(self, leaf: fx.Node, trial: Trial, profile: Profile, place: int) -> Any:
        val = leaf.meta["val"]
        if is_size(leaf) or isinstance(val, torch.SymInt):
            return size_with(val, trial.sizes)
        if not isinstance(val, torch.Tensor):
            return self._examples[leaf]
        shape = in_image([size_with(n, trial.sizes) for n in val.shape], profile.image)
        dtype, example = val.dtype, self._examples.get(leaf)
        if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool or example is None:
            return edge_tensor(shape, dtype, trial.pattern, profile.constants, 100 * trial.seed + place)
        if profile.tables:  # every row, in one trial or over several
            count = math.prod(shape)
            return ((torch.arange(count) + trial.seed * count) % min(profile.tables)).reshape(shape).to(dtype)
        known = example.flatten()
        random = torch.Generator().manual_seed(trial.seed)
        return known[torch.randint(len(known), shape, generator=random)] if len(known) else example
