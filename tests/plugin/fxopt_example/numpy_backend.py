"""A backend for a few ops that runs on numpy alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fxopt.backend import Backend, Manifest, Runner, read_json

if TYPE_CHECKING:
    from torch import fx

    from fxopt import Program, Target


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    return x @ weight.T if bias is None else x @ weight.T + bias


def _softmax(x: Any, dim: int) -> Any:
    powers = np.exp(x - x.max(dim, keepdims=True))
    return powers / powers.sum(dim, keepdims=True)


OPS: dict[str, Callable[..., Any]] = {
    "aten.linear": _linear,
    "aten.softmax.int": _softmax,
    "aten.amax": lambda x, dims: x.max(tuple(dims)),
    "aten.add.Tensor": np.add,
    "aten.mul.Tensor": np.multiply,
    "aten.neg": np.negative,
    "aten.relu": lambda x: np.maximum(x, 0),
    "aten.tanh": np.tanh,
}
"""What the backend can do, by the name that the op has in the text form."""


@dataclass(frozen=True)
class Numpy(Backend):
    """Run a graph of a few simple ops with numpy, op by op."""

    name: ClassVar[str] = "numpy"

    def refuses(self, node: fx.Node) -> str | None:
        """Why numpy cannot run a node: its op is not in the table, or has named arguments."""
        from fxopt import op_name

        if op_name(node) not in OPS:
            return f"the numpy backend has only {', '.join(sorted(OPS))}"
        return "the numpy backend takes arguments by position only" if node.kwargs else None

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write the graph as ``graph.json`` and the weights as ``weights.npz``."""
        from torch import fx

        from fxopt import op_name

        def plain(value: Any) -> Any:
            if isinstance(value, fx.Node):
                return {"value": value.name}
            return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

        nodes = [n for n in program.graph.nodes if n.op == "call_function"]
        graph = {
            "inputs": [n.name for n in program.inputs()],
            "calls": [[n.name, op_name(n), plain(n.args)] for n in nodes],
            "outputs": plain(program.outputs()),
        }
        weights = {n.name: t.detach().numpy() for n in program.graph.nodes if (t := program.tensor(n)) is not None}
        (out / "graph.json").write_text(json.dumps(graph))
        np.savez(out / "weights.npz", **weights)
        return {"calls": len(nodes)}

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Read both files; needs numpy alone."""
        graph = read_json(folder / "graph.json")
        with np.load(folder / "weights.npz") as stored:
            weights = dict(stored)

        def run(arrays: list[Any]) -> list[Any]:
            values = weights | dict(zip(graph["inputs"], arrays, strict=True))

            def resolve(value: Any) -> Any:
                if isinstance(value, dict):
                    return values[value["value"]]
                return [resolve(v) for v in value] if isinstance(value, list) else value

            for name, op, args in graph["calls"]:
                values[name] = OPS[op](*resolve(args))
            return resolve(graph["outputs"])

        return run
