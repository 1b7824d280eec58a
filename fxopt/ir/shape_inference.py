"""Shapes: re-derive every node's fake tensor after an edit, and read sizes as concrete numbers."""

from __future__ import annotations

import functools
import logging
from typing import Any

import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from fxopt.ir.op_table import Shape, Trait, lookup_name
from fxopt.ir.printer import target_name
from fxopt.ir.program import Program, fake_like
from fxopt.ir.recurrent_shapes import recurrent_in_one_step
from fxopt.ir.shape_memo import ShapeMemo


class _Derive(FakeTensorProp):
    """Runs the graph on fake tensors, from the symbolic shapes of the placeholders; records the current node."""

    at: fx.Node | None = None

    def __init__(self, program: Program, mode: FakeTensorMode) -> None:
        super().__init__(program.module, mode)
        self.weights = {name: fake_like(mode, tensor) for name, tensor in program.tensors().items()}
        self.memo = None if _writes(program) else ShapeMemo(mode)

    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        n.meta.pop("unbacked_bindings", None)  # they name the sizes of another environment
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """As torch does, but for results like their operand, and those that are known from a run before."""
        if _keeps_operand(target, args):
            return args[0]
        run = lambda: super(_Derive, self).call_function(target, args, kwargs)  # noqa: E731
        return run() if self.memo is None else self.memo.call(target, args, kwargs, run)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.weights[target] if target in self.weights else super().get_attr(target, args, kwargs)


def _writes(program: Program) -> bool:
    """Whether an op writes into an operand, which torch allows in a value that was computed, and not in one just made."""
    targets = (n.target for n in program.graph.nodes if n.op == "call_function")
    return any(isinstance(t, torch._ops.OpOverload) and t._schema.is_mutable for t in targets)


_BATCH_NORM = torch.ops.aten.batch_norm.default


def _keeps_operand(target: Any, args: Any) -> bool:
    """Whether its result is like its contiguous float operand: by trait, or batch norm in evaluation with fitting statistics."""
    if target is not _BATCH_NORM and not _keeps_form(target):
        return False
    if not args[0].is_floating_point() or not args[0].is_contiguous():
        return False
    if target is not _BATCH_NORM:
        return not any(isinstance(arg, complex) for arg in args)
    x, *parameters, training = args[:6]
    fits = all(p is not None and tuple(p.shape) == (x.shape[1],) and p.dtype == x.dtype for p in parameters)
    return len(args) == 9 and not training and fits


@functools.cache
def _keeps_form(target: Any) -> bool:
    row = lookup_name(target_name(target))
    return row is not None and Trait.KEEPS_FORM in row.traits


def fake_mode(program: Program) -> FakeTensorMode:
    """The fake-tensor mode of the placeholders, or a new one for a program that has none yet."""
    for node in program.inputs():
        value = node.meta.get("val")
        if value is not None and hasattr(value, "fake_mode"):
            mode: FakeTensorMode = value.fake_mode
            return mode
    return FakeTensorMode(shape_env=ShapeEnv())


class _SameNames(ShapeEnv):
    """Names the symbol for ``s77`` s77 again: ``program.ranges`` has it by that name."""

    def _generate_unique_id(self, source_name: str) -> int:
        wanted = source_name.removeprefix("s")
        if not wanted.isdigit() or int(wanted) in self.unique_ids:
            return super()._generate_unique_id(source_name)
        self.unique_ids.add(int(wanted))
        return int(wanted)


def fresh_inputs(program: Program) -> tuple[FakeTensorMode, list[Any]]:
    """Fake values for the placeholders in a shape environment of their own, with the same dynamic sizes.

    A graph that specializes a dynamic size does so in its environment, for all programs that share it. So each derivation
    has its own, and a wrong pass cannot spoil the program that it was given a copy of.
    """
    env = _SameNames()
    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    mode.cache_enabled = False  # it is of this environment alone: filling it takes longer than it saves
    made: dict[sympy.Symbol, torch.SymInt] = {}

    def size(old: int | torch.SymInt) -> Any:
        if not isinstance(old, torch.SymInt):
            return old
        expression = old.node.expr
        for symbol in sorted(getattr(expression, "free_symbols", ()), key=str):
            if symbol not in made:
                made[symbol] = _new_size(env, symbol, old, program.ranges.get(str(symbol), (0, None)))
        if isinstance(expression, (int, sympy.Integer)):
            return int(expression)
        return sympy_interp(PythonReferenceAnalysis, made, expression)

    def value(old: Any) -> Any:
        if not isinstance(old, torch.Tensor):
            return size(old)
        sizes, strides = [size(s) for s in old.shape], [size(s) for s in old.stride()]
        return torch.empty_strided(sizes, strides, dtype=old.dtype, device=old.device)

    with mode:
        return mode, [value(node.meta["val"]) for node in program.inputs()]


def named_sizes(forms: list[Any], ranges: dict[str, tuple[int, int | None]]) -> list[Any]:
    """Fake values for placeholders from ``dtype``, ``sizes`` and ``strides`` as text, with ``hints`` of their symbols."""
    env = _SameNames()
    made: dict[sympy.Symbol, torch.SymInt] = {}

    def size(text: str, hints: dict[str, int]) -> Any:
        expression = sympy.sympify(text, {name: sympy.Symbol(name) for name in hints})
        for symbol in sorted(expression.free_symbols, key=str):
            if symbol not in made:
                bounds = ranges.get(str(symbol), (0, None))
                made[symbol] = _symbol(env, str(symbol), hints[str(symbol)], bounds)
        return int(expression) if expression.is_Integer else sympy_interp(PythonReferenceAnalysis, made, expression)

    def value(form: Any) -> Any:
        if form is None:
            return None
        if isinstance(form, str):
            return size(form, {})
        sizes, strides = ([size(s, form["hints"]) for s in form[key]] for key in ("sizes", "strides"))
        return torch.empty_strided(sizes, strides, dtype=getattr(torch, form["dtype"].removeprefix("torch.")))

    with FakeTensorMode(shape_env=env, allow_non_fake_inputs=True):
        return [value(form) for form in forms]


def _new_size(env: ShapeEnv, symbol: sympy.Symbol, old: torch.SymInt, bounds: tuple[int, int | None]) -> torch.SymInt:
    return _symbol(env, str(symbol), int(old.node.shape_env.backed_var_to_val[symbol]), bounds)


def _symbol(env: ShapeEnv, name: str, hint: int, bounds: tuple[int, int | None]) -> torch.SymInt:
    new = env.create_symbol(hint, ConstantSource(name), DimDynamic.DYNAMIC, do_not_specialize_zero_one=bounds[0] < 2)
    return env.create_symintnode(new, hint=hint)  # type: ignore[return-value]


def derive_shapes(program: Program) -> None:
    """Derive ``meta["val"]`` of every node anew. Raises PassError at the node whose inputs do not fit."""
    mode, values = fresh_inputs(program)
    run = _Derive(program, mode)
    loggers = [logging.getLogger(name) for name in ("torch.fx.interpreter", "torch._subclasses.fake_tensor")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True  # a new level would have every logger of the process look its own up again
    try:
        # without the dispatcher a composite op in C++ (aten.pad) asks for sizes as plain numbers
        # and scatters of complex numbers have no gradient
        with torch.no_grad(), recurrent_in_one_step(), enable_python_dispatcher():
            run.propagate_dont_convert_inputs(*values)
    except Exception as error:
        if run.at is None:
            raise
        operands = "\n".join(f"    {program.describe(n)}" for n in run.at.all_input_nodes)
        reason = str(error).split("\nWhile executing")[0].splitlines()[0] if str(error) else type(error).__name__
        raise program.fail(run.at, f"shapes do not fit: {reason}\n{operands}") from error
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was


def size_expressions(sizes: Any) -> list[Any]:
    """Sizes or strides as ints and sympy expressions: two dynamic ones that only may be equal are not."""
    return [s if isinstance(s, int) else s.node.expr for s in sizes]


def _solved(size: torch.SymInt, symbol: sympy.Symbol, actual: int) -> int:
    """The value of the one symbol in a size such as ``2*s``."""
    solutions = sympy.solve(sympy.sympify(size.node.expr) - actual, symbol)
    return int(solutions[0]) if solutions else int(size.node.shape_env.backed_var_to_val[symbol])


def concrete_shapes(program: Program, *, batch: int | None = None) -> Shape:
    """Return a function from a node to its shape, with the example inputs' sizes for dynamic dims.

    A dynamic batch is ``batch`` examples, if that is given.
    """
    known: dict[Any, int] = {}
    for node, leaf in zip(program.inputs(), program.example_leaves(), strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            for size, actual in zip(value.shape, leaf.shape, strict=True):
                if isinstance(size, torch.SymInt) and len(free := size.node.expr.free_symbols) == 1:
                    (symbol,) = free
                    known.setdefault(symbol, int(actual) if size.node.expr == symbol else _solved(size, symbol, actual))
    if batch is not None:
        names = program.dims()
        known |= {symbol: batch for symbol in known if names.get(str(symbol)) == "batch"}

    def size_of(size: int | torch.SymInt) -> int:
        if isinstance(size, torch.SymInt):
            value = sympy.sympify(sympy.sympify(size.node.expr).xreplace(known))
            return int(value) if value.is_number else int(size.node.hint or 1)
        return size

    def shape(node: fx.Node) -> tuple[int, ...]:
        value = node.meta.get("val")
        return tuple(size_of(s) for s in value.shape) if isinstance(value, torch.Tensor) else ()

    return shape
