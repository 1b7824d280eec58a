"""Probe inputs of a program: its example, and random ones like it, of other sizes where these are dynamic."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sympy
import torch
from torch import fx

from fxopt.ir.cost import cost
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.numerics.edge_values import PATTERNS, edge_tensor
from fxopt.numerics.execute import run

SCALES = (10.0, 1.0, 0.1)
"""Scales of the rows of random inputs for exact passes: beyond a clamp, as in relu6, and near zero."""

_EDGE_MACS = 10**9
"""A run on edge inputs may cost this many multiplications."""

_Result = TypeVar("_Result")


def probe_inputs(program: Program) -> list[list[Any]]:
    """Flat inputs to try: the example, and the first of :func:`random_inputs` that the program runs on."""
    return [inputs for inputs, _ in try_probes(program, lambda inputs: run(program, inputs, wide=False))]


def try_probes(
    program: Program, call: Callable[[list[Any]], _Result], scales: tuple[float, ...] = (1.0,)
) -> list[tuple[list[Any], _Result]]:
    """Call with the example, and with the first of :func:`random_inputs` that does not fail; return inputs and results.

    Raises what the call raises on the example.
    """
    example = program.example_leaves()
    tried = [(example, call(example))]
    for inputs in random_inputs(program, scales):
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):  # fx prints where it failed
            return [*tried, (inputs, call(inputs))]
    return tried


def random_inputs(program: Program, scales: tuple[float, ...] = (1.0,)) -> Iterator[list[Any]]:
    """Yield flat random inputs: with all dynamic sizes changed, with the batch alone changed, with the example's sizes.

    There are several, as a model may have conditions on its sizes that are not in ``program.ranges``. Floating
    inputs have the mean and deviation of the example, and their rows (the first dim) are multiplied by ``scales`` in
    turn. Integers may be indices, so they are drawn from the example's values.
    """
    known = example_sizes(program)
    names = program.dims()
    other: dict[sympy.Symbol, int] = {}
    for step, (symbol, size) in enumerate(known.items(), 1):  # different steps, so that equal sizes become different
        near = (3, 2, 4) if names.get(str(symbol)) == "batch" else (size + step, size - step, size + 1, size - 1)
        other[symbol] = _another(size, near, program.ranges.get(str(symbol), (1, None)))
    batch = {symbol: size for symbol, size in other.items() if names.get(str(symbol)) == "batch"}
    tried: list[dict[sympy.Symbol, int]] = []
    for sizes in (other, known | batch, known):
        if sizes not in tried:
            tried.append(sizes)
            yield _random(program, sizes, scales)


def random_batch(program: Program, size: int) -> list[Any]:
    """Flat random inputs with a batch of ``size``, where that is dynamic, and the example's sizes otherwise."""
    names = program.dims()
    sizes = {s: size if names.get(str(s)) == "batch" else n for s, n in example_sizes(program).items()}
    return _random(program, sizes, (1.0,))


def edge_probes(program: Program) -> list[list[Any]]:
    """Flat inputs of edge cases, each of other sizes: a batch of one, and rows of every pattern.

    Integers that index a table go through all of its rows. There are none for a program that is expensive to run.
    """
    names = program.dims()
    sizes = example_sizes(program)
    batch = [s for s in sizes if names.get(str(s)) == "batch"]
    macs = cost(program).macs
    probes = []
    for rows in (1, len(PATTERNS)) if batch else (0,):
        if macs * max(rows, 1) > _EDGE_MACS:
            break
        low = [program.ranges.get(str(s), (1, None))[0] for s in batch]
        at = sizes | {s: max(rows, least) for s, least in zip(batch, low, strict=True)}
        for pattern in (None,) if rows > 1 else ("random numbers", "edge values", "zeros"):
            probes.append(_edge(program, at, pattern))
    return probes


def _edge(program: Program, sizes: dict[sympy.Symbol, int], pattern: str | None) -> list[Any]:
    made = _random(program, sizes, (1.0,))
    for i, (node, value) in enumerate(zip(program.inputs(), made, strict=True)):
        if not isinstance(value, torch.Tensor):
            continue
        if value.is_floating_point():
            made[i] = edge_tensor(value.shape, value.dtype, pattern, (), i)
        elif (rows := _table_rows(node)) and value.dtype != torch.bool:
            made[i] = (torch.arange(value.numel()) % rows).reshape(value.shape).to(value.dtype)
    return made


def _table_rows(node: fx.Node) -> int:
    """Rows of the smallest table that an input indexes directly; 0 if it indexes none."""
    tables = [u.args[0] for u in node.users if op_name(u).startswith("aten.embedding") and u.args[1] is node]
    shapes = [t.meta["val"].shape for t in tables if isinstance(t, fx.Node) and "val" in t.meta]
    return min((int(shape[0]) for shape in shapes), default=0)


def _random(program: Program, sizes: dict[sympy.Symbol, int], scales: tuple[float, ...]) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for node, leaf in zip(program.inputs(), program.example_leaves(), strict=True):
        shape = [size_with(n, sizes) for n, _ in _sizes(node, leaf)]
        is_tensor = isinstance(leaf, torch.Tensor)
        made.append(_random_like(leaf, shape, scales, generator) if is_tensor else shape[0] if shape else leaf)
    return made


def example_sizes(program: Program) -> dict[sympy.Symbol, int]:
    """The values of the symbols in the sizes of the inputs, for the example."""
    known: dict[sympy.Symbol, int] = {}
    for node, leaf in zip(program.inputs(), program.example_leaves(), strict=True):
        for size, actual in _sizes(node, leaf):
            if not isinstance(size, torch.SymInt):
                continue
            if size.node.expr.is_symbol:
                known[size.node.expr] = actual
            for symbol in size.node.expr.free_symbols - known.keys():
                known[symbol] = int(size.node.shape_env.backed_var_to_val[symbol])
    return known


def _sizes(node: fx.Node, leaf: Any) -> list[tuple[Any, int]]:
    """Sizes of an input, symbolic and of the example; a dynamic number as input counts as a size."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return list(zip(value.shape, leaf.shape, strict=True))
    return [(value, leaf)] if isinstance(value, torch.SymInt) else []


def size_with(size: Any, known: dict[sympy.Symbol, int]) -> int:
    """A size as a number, with the symbols in it as known. Raises TypeError where it has others."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    return int(sympy.sympify(size.node.expr).xreplace({symbol: sympy.Integer(n) for symbol, n in known.items()}))


def _another(size: int, near: tuple[int, ...], bounds: tuple[int, int | None]) -> int:
    """The first other size of ``near`` within bounds; failing that the size itself."""
    low, high = max(bounds[0], 1), bounds[1]
    return next((n for n in near if n != size and low <= n and (high is None or n <= high)), size)


def _random_like(
    leaf: torch.Tensor, shape: list[int], scales: tuple[float, ...], generator: torch.Generator
) -> torch.Tensor:
    if leaf.numel() == 0:
        return leaf
    if leaf.dtype == torch.bool:
        return torch.randint(2, shape, generator=generator).bool()
    if not leaf.is_floating_point():
        values = leaf.flatten()
        return values[torch.randint(len(values), shape, generator=generator)]
    finite = leaf[leaf.isfinite()].double()
    spread = finite.std().item() if finite.numel() > 1 else 1.0
    mean = finite.mean().item() if finite.numel() else 0.0
    noise = torch.randn(shape, generator=generator) * (spread or 1.0) + mean
    if shape:
        rows = torch.tensor(scales)[torch.arange(shape[0]) % len(scales)]
        noise *= rows.reshape(-1, *[1] * (len(shape) - 1))
    return noise.to(leaf.dtype)
