"""What a pass claims of single values: this node's value is that one's of before, with these indices left.

Outputs alone can hide a wrong rewrite: a layer scale of 1e-6 in front of them, or a head of zeros. A pass that removes
indices therefore says for every node what is left of its value, and verification compares all of them in float64, which
also names the first node that is wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.compare import clearly_close, relative_error
from fxopt.program import Program
from fxopt.running import untouched


def first_wrong(before: Program, after: Program, inputs: list[Any], tolerance: float) -> tuple[fx.Node, float] | None:
    """Run two programs in step; return the first node of ``after`` whose value is not as claimed, and its error.

    ``inputs`` are flat; a value is compared as soon as it is made, before anything writes into it.
    """
    with torch.no_grad(), untouched(before), untouched(after):
        old, new = _Steps(before, inputs), _Steps(after, inputs)
        for node in after.graph.nodes:
            value = new.run(node)
            claim = after.claims.get(node.name)
            if claim is None:
                continue
            was, kept = claim
            expected = old.value_of(was)
            if isinstance(expected, torch.Tensor) and isinstance(value, torch.Tensor):
                for dim, indices in kept.items():
                    expected = expected.index_select(dim, indices)
                if not clearly_close(expected, value, tolerance):
                    error = relative_error(expected, value)
                    if not error <= tolerance:
                        return node, error
    return None


class _Steps:
    """A program, run node by node on copies of flat inputs; a value is dropped after its last use."""

    def __init__(self, program: Program, inputs: list[Any]) -> None:
        fresh = [v.clone() if isinstance(v, torch.Tensor) else v for v in inputs]
        self._interpreter = fx.Interpreter(program.module, garbage_collect_values=True)
        self._interpreter.args_iter = iter(fresh)
        self._left = iter(program.graph.nodes)

    def run(self, node: fx.Node) -> Any:
        """Compute a node whose operands were computed."""
        interpreter = self._interpreter
        interpreter.env[node] = value = interpreter.run_node(node)
        for used in interpreter.user_to_last_uses.get(node, []):
            del interpreter.env[used]
        return value

    def value_of(self, name: str) -> Any:
        """Go on in order until the node of this name has been computed, and return its value."""
        for node in self._left:
            value = self.run(node)
            if node.name == name:
                return value
        raise KeyError(name)
