"""A region run on values of its leaves, the side before and the side after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from fxopt.ir.program import Program
from fxopt.numerics.random_draws import draw
from fxopt.pass_manager.regions.region import Region

Numbers = Mapping[fx.Node, Any]


class OldFails(Exception):
    """The program before does not run on these values of the leaves."""


class NewFails(Exception):
    """The program after does not run where the one before does."""


class RegionRun:
    """Runs regions of two programs, in float64 or in their own precision."""

    def __init__(self, before: Program, after: Program, draws: dict[str, str]) -> None:
        self._before, self._after, self._draws = before, after, draws

    def old(self, region: Region, leaves: Numbers) -> dict[fx.Node, Any]:
        """All values of the old side. Raises OldFails."""
        env = dict(leaves)
        try:
            for node in region.old:
                env[node] = self._value(self._before, node, env)
        except Exception as error:
            raise OldFails(str(error)) from error
        return env

    def new(self, region: Region, old: Numbers) -> dict[fx.Node, Any]:
        """All values of the new side, from those of the old. Raises NewFails."""
        env = {node: old[was] for node, was in region.cut.items()}
        try:
            for node in region.new:
                env[node] = self._value(self._after, node, env)
        except Exception as error:
            raise NewFails(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
        return env

    def _value(self, program: Program, node: fx.Node, env: Numbers) -> Any:
        if node.op == "get_attr":
            tensor = program.tensor(node)
            return program.module.get_submodule(str(node.target)) if tensor is None else tensor.detach()
        args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
        if node.op == "output":
            return args[0]
        if node.name in self._draws:
            return draw(node, args, kwargs, self._draws[node.name])
        return node.target(*args, **kwargs)  # type: ignore[operator]
