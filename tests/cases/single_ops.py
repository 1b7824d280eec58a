"""Programs of one op each: those of the coupling rules, and what torch's core ATen set has besides; many joined to one.

::

    python tests/cases/single_ops.py > docs/operators.md      # writes the table of what each backend takes
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from cases.coupling_cases import CASES as COUPLED
from cases.coupling_cases import Case

from fxopt import Pipeline, Program
from fxopt.backend import Backend, find_backend
from fxopt.ir.op_table import family
from fxopt.ir.parser import parse_program
from fxopt.ir.printer import op_name
from fxopt.target import find_target

BACKENDS = ("onnx", "openvino", "tvm")
_X = "%x : f64[3,4,5]"
_CORE = {
    _X: "nonzero any.dims(%x,[0,2]) var.dim(%x,[0,1]) fill.Scalar(%x,2.0) as_strided(%x,[3,2],[20,5])",
    "%a : f64[3,4,5]; %b : f64[4,1]": "copy(%a,%b)",
    "%x : f64[3,4,5]; %s : f64[3,5]": "select_scatter(%x,%s,1,2)",
    "%x : f64[3,4,5]; %s : f64[3,2,5]": "slice_scatter(%x,%s,1,1,3)",
    "%x : f64[3,4]; %m : bool[3,4]; %s : f64[12]": "masked_scatter(%x,%m,%s)",
    "%x : f64[2,3,4,6,5]": "reflection_pad3d(%x,[1,1,2,1,0,2]) replication_pad3d(%x,[1,1,2,1,0,2]) "
    "_adaptive_avg_pool3d(%x,[2,3,1])",
    "%x : f64[2,3,6,8]": "_adaptive_avg_pool2d(%x,[3,2])",
    "%a : f64[2,5,4]; %b : f64[2,6,4]": "_cdist_forward(%a,%b,2.0,None)",
    "%x : f64[5,4]": "_pdist_forward(%x,2.0)",
}
_PARTS = (
    "%x : f64[2,6,4]; %w : f64[4]; %b : f64[4]; %many = aten.native_layer_norm(%x, [4], %w, %b, 1e-5)",
    "%x : f64[2,6,4,3]; %w : f64[6]; %b : f64[6]; %many = aten.native_group_norm(%x, %w, %b, 2, 6, 12, 3, 1e-5)",
    "%x : f64[2,6,4,3]; %w : f64[6]; %b : f64[6]; %many = aten._native_batch_norm_legit.no_stats(%x, %w, %b, True, 0.1, 1e-5)",
    "%x : f64[2,3,4,6,5]; %many = aten.max_pool3d_with_indices(%x, [2, 2, 2])",
    "%x : f64[3,4]; %many = aten.native_dropout(%x, 0.5, False)",
)
"""Ops with several results, of which the first is returned."""


def _core() -> list[Case]:
    found = []
    for inputs, calls in _CORE.items():
        for call in re.findall(r"[\w.]+(?:\([^)]*\))?", calls):
            found.append(f"{inputs}; %y = aten.{call if '(' in call else call + '(%x)'}; return %y")
    found += [f"{text}; %y = getitem(%many, 0); return %y" for text in _PARTS]
    return [Case(text, 0) for text in found]


def cases() -> list[Case]:
    """All of them, in float32."""
    return [dataclasses.replace(c, text=c.text.replace("f64[", "f32[")) for c in (*COUPLED, *_core())]


def ops_of(case: Case) -> list[str]:
    """Names of the ops of a case, without those that pick results."""
    return sorted(
        {op_name(node) for node in parse_program(case.text).graph.nodes if node.op == "call_function"} - {"getitem"}
    )


def is_random(case: Case) -> bool:
    """Whether its values are drawn, or whatever is in memory: only sizes and types can be held."""
    nodes = [node for node in parse_program(case.text).graph.nodes if node.op == "call_function"]
    return any(family(node) == "random" or "empty" in op_name(node) for node in nodes)


def refusal(case: Case, backend: Backend) -> str | None:
    """Why a backend does not take a case, once it has it in its own form; None if it does."""
    return _refusal(case.text, backend)


@functools.cache
def _refusal(text: str, backend: Backend) -> str | None:
    target = find_target("host")
    legal = Pipeline.parse(backend.legalize()).run(parse_program(text), watchers=(), target=target, backend=backend)
    nodes = [node for node in legal.program.graph.nodes if node.op == "call_function"]
    return next((reason for node in nodes if (reason := backend.refuses(node))), None)


def joined(some: Sequence[Case]) -> Program:
    """One program of many cases, with all their inputs and outputs; values that a case asks for are its example inputs."""
    inputs, calls, results, values = [], [], [], dict[str, Any]()
    for k, case in enumerate(some):
        text = re.sub(r'param "([^"]+)"', rf'param "\1_{k}"', re.sub(r"%(\w+)", rf"%\1_{k}", case.text))
        *lines, returned = [line.strip() for line in text.split(";")]
        results.append(returned.removeprefix("return "))
        for line in lines:
            (inputs if re.match(r"%\w+ : ", line) else calls).append(line)
        values |= {f"{name}_{k}": value for name, value in case.values.items()}
    program = parse_program("; ".join((*inputs, *calls, f"return {', '.join(results)}")))
    torch.manual_seed(0)
    program.args = tuple(_value(node, values) for node in program.graph.find_nodes(op="placeholder"))
    return program


def _value(node: fx.Node, values: dict[str, Any]) -> torch.Tensor:
    fake = node.meta["val"]
    if node.name in values:
        return torch.as_tensor(values[node.name]).to(fake.dtype).expand(fake.shape).clone()
    if fake.dtype.is_floating_point:
        return torch.rand(fake.shape, dtype=fake.dtype) * 1.8 - 0.9
    return torch.rand(fake.shape) < 0.5 if fake.dtype == torch.bool else torch.zeros(fake.shape, dtype=fake.dtype)


HEAD = """# Operators

What the backends take, after they have brought a program into their own form. *some* means that certain arguments are
refused. What is refused is refused before a build begins, with the line of the model and what to do instead; `eager` takes
everything. The test that builds every *yes* beside torch writes this page.

"""


def table(refusals: dict[str, dict[str, list[str | None]]]) -> str:
    """The page: of each op and backend the refusals of its cases."""
    lines, notes = [f"| op | {' | '.join(BACKENDS)} |", "|---" * (1 + len(BACKENDS)) + "|"], []
    for op, found in sorted(refusals.items()):
        cells = []
        for backend in BACKENDS:
            reasons = [reason for reason in found[backend] if reason]
            cells.append("yes" if not reasons else "no" if len(reasons) == len(found[backend]) else "some")
            notes += [f"- `{op}`, {backend}: {reason}" for reason in sorted(set(reasons))]
        lines.append(f"| `{op}` | {' | '.join(cells)} |")
    return HEAD + "\n".join(lines) + "\n\n## Why not\n\n" + "\n".join(notes) + "\n"


def refusals(backend: Backend) -> dict[str, list[str | None]]:
    """By op, the refusals of its cases."""
    found: dict[str, list[str | None]] = {}
    for case in cases():
        for op in ops_of(case):
            found.setdefault(op.removeprefix("aten."), []).append(refusal(case, backend))
    return found


if __name__ == "__main__":
    by_backend = {name: refusals(find_backend(name)) for name in BACKENDS}
    print(table({op: {name: by_backend[name][op] for name in BACKENDS} for op in by_backend["onnx"]}), end="")
