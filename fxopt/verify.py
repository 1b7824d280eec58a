"""Verification around every pass: the interface is kept, and the numbers are (exact) or are measured (approx).

An exact pass is replayed on a float64 copy of the program, and the outputs before and after are compared there, on
the example inputs and on random ones of another batch. What was stored in the program's own precision is then held
against the same outputs, with the room that rounding the weights needs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.errors import VerifyError
from fxopt.ops import family
from fxopt.pipeline import Step, StepResult, apply
from fxopt.precision import to_float64, widen
from fxopt.program import Program
from fxopt.text import type_text

STORED_TOLERANCE = 1e-4
"""Relative error allowed to weights rounded to their own precision, after a pass that was proved in float64."""

ROUNDING = 30
"""A model that amplifies rounding gets more room: this many times what its own precision costs it anyway."""


@dataclass(frozen=True)
class _Run:
    outputs: list[Any]
    aliases: frozenset[str]


class Verify:
    """Watcher that raises VerifyError for a pass that breaks the interface, the memory or the numbers."""

    def __init__(self) -> None:
        self._last: tuple[Program, list[_Run]] | None = None

    @contextlib.contextmanager
    def __call__(self, step: Step, program: Program, result: StepResult) -> Iterator[None]:
        """Compare the program before and after the pass."""
        last, self._last = self._last, None
        yield
        exact = step.pass_.kind == "exact"
        if not result.changed:
            result.findings |= {"error": 0.0} if exact else {"sqnr_db": math.inf}
            self._last = last
            return
        where = f"after {step}"
        _compare_interface(_interface(step.before), _interface(program), program, where)
        probes = probe_inputs(step.before)
        wide = to_float64(step.before, to_run_passes=exact)
        before = last[1] if last and last[0] is program else [run(wide, probe, wide=True) for probe in probes]
        after = _try_runs(to_float64(program), probes, where)
        _compare_aliases(before, after, program, where)
        if exact:
            apply(step, wide)
            proof = _try_runs(wide, probes, where)
            result.findings["error"] = _check_close(before, proof, step.pass_.tolerance, program, where, "in float64")
            room = _stored_tolerance(step, before, probes)
            _check_close(before, after, room, program, where, "as stored")
            if not any(family(node) == "quant" for node in program.graph.nodes):  # rounding makes a step of any noise
                own = _try_runs(program, probes, where, wide=False)
                _check_close(before, own, room, program, where, "in its own precision")
        else:
            result.findings["sqnr_db"] = min(sqnr(b.outputs, a.outputs) for b, a in zip(before, after, strict=True))
            _check_finite(before, after, program, where)
        if is_constant([b.outputs for b in before]):
            result.findings["vacuous"] = "the outputs do not depend on the inputs, so comparing them proves nothing"
        self._last = (program, after)


def _stored_tolerance(step: Step, before: list[_Run], probes: list[list[Any]]) -> float:
    """How far the outputs may move by rounding weights: seen by running the program in its own precision."""
    own = [run(step.before, probe, wide=False) for probe in probes]
    pairs = [p for b, o in zip(before, own, strict=True) for p in zip(b.outputs, o.outputs, strict=True)]
    floor = max((relative_error(want, widen(got)) for want, got in pairs), default=0.0)
    return max(STORED_TOLERANCE, step.pass_.tolerance, ROUNDING * floor if math.isfinite(floor) else 0.0)


def probe_inputs(program: Program) -> list[list[Any]]:
    """Flat inputs to try: the example, and random ones like it, with a batch of 3 where the batch is dynamic."""
    generator = torch.Generator().manual_seed(0)
    leaves = program.example_leaves()
    names = program.dims()
    random = []
    for node, leaf in zip(program.inputs(), leaves, strict=True):
        if not isinstance(leaf, torch.Tensor):
            random.append(leaf)
            continue
        sizes = node.meta["val"].shape
        shape = [3 if names.get(str(s)) == "batch" else n for s, n in zip(sizes, leaf.shape, strict=True)]
        random.append(_random_like(leaf, shape, generator))
    return [leaves, random]


def _random_like(leaf: torch.Tensor, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    if leaf.numel() == 0:
        return leaf
    if leaf.is_floating_point():
        spread = leaf.float().std().item() if leaf.numel() > 1 else 1.0
        noise = torch.randn(shape, generator=generator) * (spread or 1.0) + leaf.float().mean().item()
        return noise.to(leaf.dtype)
    values = leaf.flatten()  # integers may be indices: draw only from the values that the example has
    return values[torch.randint(len(values), shape, generator=generator)]


def run(program: Program, inputs: list[Any], *, wide: bool) -> _Run:
    """Run flat inputs; return flat outputs, and which of them share memory with an input, a weight or one another."""
    fresh = [v.clone() if isinstance(v, torch.Tensor) else v for v in inputs]
    fresh = [widen(v) for v in fresh] if wide else fresh
    names = {node.target: v for node, v in zip(program.inputs(), fresh, strict=True)}
    spec = pytree.tree_structure((program.args, program.kwargs))
    args, kwargs = pytree.tree_unflatten(fresh, spec)
    outputs = pytree.tree_leaves(program(*args, **kwargs))
    owners = {_memory(v): f"input {name}" for name, v in names.items() if isinstance(v, torch.Tensor)}
    owners |= {_memory(t): f"weight {name}" for name, t in program.tensors().items()}
    aliases = []
    for i, out in enumerate(outputs):
        if isinstance(out, torch.Tensor) and out.numel():
            owner = owners.setdefault(_memory(out), f"output {i}")
            if owner != f"output {i}":
                aliases.append(f"output {i} shares memory with {owner}")
    return _Run(outputs, frozenset(aliases))


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _try_runs(program: Program, probes: list[list[Any]], where: str, *, wide: bool = True) -> list[_Run]:
    shapes: list[str] = []
    try:
        runs = []
        for inputs in probes:
            shapes = [type_text(v) for v in inputs]
            runs.append(run(program, inputs, wide=wide))
        return runs
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise VerifyError(
            f"{where}: the program no longer runs on inputs {shapes}\n  {type(error).__name__}: {reason[0] if reason else ''}"
        ) from error


def _interface(program: Program) -> tuple[list[str], list[str], Any, Any]:
    dims = program.dims()
    inputs = [f"{n.target}: {type_text(n.meta.get('val'), dims)}" for n in program.inputs()]
    values = [o.meta.get("val") if isinstance(o, fx.Node) else o for o in program.outputs()]
    return inputs, [_stable(v, dims) for v in values], program.in_spec, program.out_spec


def _stable(value: Any, dims: dict[str, str]) -> str:
    """Dtype and rank with sizes; a derived symbolic size is only 'dynamic', as it may be written in several ways."""
    if not isinstance(value, torch.Tensor):
        return type_text(value, dims)
    sizes = [str(s) if isinstance(s, int) else dims.get(str(s), "dynamic") for s in value.shape]
    return f"{value.dtype}[{', '.join(sizes)}]".replace("torch.", "")


def _compare_interface(before: Any, after: Any, program: Program, where: str) -> None:
    problems = []
    for what, old, new in (("input", before[0], after[0]), ("output", before[1], after[1])):
        if len(old) != len(new):
            problems.append(f"there were {len(old)} {what}(s), there are {len(new)}")
        for i, (a, b) in enumerate(zip(old, new, strict=False)):
            if a != b:
                node = program.outputs()[i] if what == "output" else None
                line = f"\n    {program.describe(node)}" if isinstance(node, fx.Node) else ""
                problems.append(f"{what} {i}: was {a}, is {b}{line}")
    if before[2:] != after[2:]:
        problems.append("the structure of the inputs or outputs changed")
    if problems:
        text = "\n  ".join(problems)
        raise VerifyError(f"{where}\n  {text}\n  a pass may not change the inputs or outputs of the program")


def _compare_aliases(before: list[_Run], after: list[_Run], program: Program, where: str) -> None:
    new = sorted({a for b, c in zip(before, after, strict=True) for a in c.aliases - b.aliases})
    if new:
        raise VerifyError(
            f"{where}\n  {'; '.join(new)}, and did not before\n"
            "  a caller that writes into the result would change it; keep a copy (aten.clone) at the output"
        )


def relative_error(want: Any, got: Any) -> float:
    """Largest absolute difference over the largest absolute value of ``want``; inf where shape or NaNs differ."""
    if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
        return 0.0 if want == got else math.inf
    if want.shape != got.shape or (not want.is_floating_point() and not want.is_complex()):
        return 0.0 if want.shape == got.shape and torch.equal(want, got) else math.inf
    if want.numel() == 0:
        return 0.0
    same = (want == got) | (want.isnan() & got.isnan())  # equal infinities too
    difference = torch.where(same, torch.zeros_like(want), want - got).abs().max().item()
    finite = want[want.isfinite()].abs()
    scale = finite.max().item() if finite.numel() else 0.0
    if math.isnan(difference):
        return math.inf
    return difference / scale if scale else (math.inf if difference else 0.0)


def _check_close(
    before: list[_Run], after: list[_Run], tolerance: float, program: Program, where: str, how: str
) -> float:
    worst = 0.0
    for probe, (b, a) in enumerate(zip(before, after, strict=True)):
        for i, (want, got) in enumerate(zip(b.outputs, a.outputs, strict=True)):
            error = relative_error(want, got)
            worst = max(worst, error)
            if not error <= tolerance:
                node = program.outputs()[i]
                line = f"\n    {program.describe(node)}" if isinstance(node, fx.Node) else ""
                inputs = "the example inputs" if probe == 0 else "random inputs"
                raise VerifyError(
                    f"{where}\n  output {i} changed by {error:.3g} relative {how}, allowed {tolerance:.3g}, "
                    f"on {inputs}{line}\n  an exact pass may not change the numbers; "
                    "if it is meant to, declare kind='approx'"
                )
    return worst


def _check_finite(before: list[_Run], after: list[_Run], program: Program, where: str) -> None:
    for b, a in zip(before, after, strict=True):
        for i, (want, got) in enumerate(zip(b.outputs, a.outputs, strict=True)):
            if isinstance(got, torch.Tensor) and bool(want.isfinite().all()) and not bool(got.isfinite().all()):
                node = program.outputs()[i]
                line = f"\n    {program.describe(node)}" if isinstance(node, fx.Node) else ""
                raise VerifyError(f"{where}\n  output {i} is no longer finite{line}")


def sqnr(want: list[Any], got: list[Any]) -> float:
    """Signal-to-quantization-noise ratio in dB over all floating outputs, the worst of them; inf if they are equal."""
    worst = math.inf
    for a, b in zip(want, got, strict=True):
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            signal, noise = a.double().pow(2).sum().item(), (a.double() - b.double()).pow(2).sum().item()
            if noise:
                worst = min(worst, 10 * math.log10(signal / noise) if signal else -math.inf)
    return worst


def is_constant(runs: list[list[Any]]) -> bool:
    """Whether no output varies, neither within a tensor nor between runs."""
    for outputs in zip(*runs, strict=True):
        tensors = [o for o in outputs if isinstance(o, torch.Tensor) and o.numel()]
        if tensors and any((t != tensors[0].flatten()[0]).any() for t in tensors):
            return False
    return True
