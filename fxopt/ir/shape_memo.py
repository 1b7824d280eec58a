"""Types of results of ops by the types of their operands, kept from one derivation of shapes to the next.

A pipeline derives the shapes of nearly the same graph after every step, and a deep net repeats its layers. torch has a cache
of its own, but one of each shape environment where sizes are dynamic, and a derivation has a new environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

from fxopt.ir.op_table import lookup_name
from fxopt.ir.printer import target_name

_PLAIN = (int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_MOST = 20_000


@dataclass
class Memory:
    """At most ``most`` results: by op, operands and what is assumed of the sizes."""

    most: int
    results: dict[Any, Any] = field(default_factory=dict)

    def keep(self, key: Any, result: Any) -> None:
        """Remember one more; all are forgotten where there are too many."""
        if len(self.results) >= self.most:
            self.results.clear()
        if self.most:
            self.results[key] = result


_memory = Memory(_MOST)


@contextmanager
def fresh_memory(most: int = _MOST) -> Iterator[Memory]:
    """Another memory meanwhile, empty at first; of none, with 0."""
    global _memory
    before, _memory = _memory, Memory(most)
    try:
        yield _memory
    finally:
        _memory = before


@dataclass(frozen=True)
class _Type:
    """The type of a strided tensor; sizes and strides are ints and sympy expressions."""

    sizes: tuple[Any, ...]
    strides: tuple[Any, ...]
    offset: Any
    dtype: torch.dtype
    device: torch.device
    learned: bool


class _Unknown(Exception):
    """An operand or result whose type does not say all that an op may read of it."""


class ShapeMemo:
    """Runs ops on the fake tensors of one derivation, from memory where the same op met the same operands before.

    Only results that depend on no more than types are kept: of functional ops of the table, in an environment that has fixed
    no size. What the environment assumes of sizes when an op runs is part of the key, and what the run assumed is assumed
    again where its result is taken over, so all comes out as if it had run.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        assert mode.shape_env is not None
        self._mode, self._env = mode, mode.shape_env
        self._sizes: dict[sympy.Expr, torch.SymInt] = {}
        symbols = sorted(self._env.var_to_range, key=str)
        self._symbols = frozenset(symbols)
        hints = self._env.backed_var_to_val
        bounds = tuple((str(s), str(self._env.var_to_range[s]), str(hints.get(s))) for s in symbols)
        self._given = (bounds, torch.get_default_dtype(), torch.is_grad_enabled())
        self._assumed: tuple[str, ...] = ()

    def call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[[], Any]) -> Any:
        """The result of ``target`` on fake operands, which is what ``run()`` gives, or like it in type."""
        if not _is_kept(target) or self._is_off():
            return run()
        try:
            key = (target, self._types(args), self._types(tuple(sorted(kwargs.items()))), self._given, self._guards())
        except _Unknown:
            return run()
        if key in _memory.results:
            found, assumed = _memory.results[key]
            for expression in assumed:
                self._env.evaluate_expr(expression)
            return self._made(found)
        before = len(self._env.guards)
        result = run()
        if not self._is_off():
            try:
                found = self._types(result, result=True)
            except _Unknown:
                return result
            _memory.keep(key, (found, [guard.expr for guard in self._env.guards[before:]]))
        return result

    def _is_off(self) -> bool:
        """A size that turned out to be fixed, or came up in the graph: then expressions do not say which size is meant."""
        return bool(self._env.replacements or self._env.unbacked_symint_counter)

    def _guards(self) -> tuple[str, ...]:
        guards = self._env.guards
        if len(guards) != len(self._assumed):
            self._assumed = tuple(str(guard.expr) for guard in guards)
        return self._assumed

    def _types(self, value: Any, *, result: bool = False) -> Any:
        """A value with types for tensors, to be compared; the types of numbers too, as 1 == 1.0 == True."""
        if isinstance(value, torch.Tensor):
            return self._type(value)
        if isinstance(value, (tuple, list)) and not (result and type(value) not in (tuple, list)):
            return (type(value), *(self._types(v, result=result) for v in value))
        if isinstance(value, torch.SymInt) and not result:
            return (torch.SymInt, self._size(value))
        if isinstance(value, _PLAIN) and not result:
            return (type(value), value)
        raise _Unknown

    def _type(self, value: torch.Tensor) -> _Type:
        if type(value) is not FakeTensor or value.fake_mode is not self._mode or value.constant is not None:
            raise _Unknown
        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            raise _Unknown
        sizes, strides = tuple(map(self._size, value.shape)), tuple(map(self._size, value.stride()))
        offset = self._size(value.storage_offset())
        return _Type(sizes, strides, offset, value.dtype, value.fake_device, value.requires_grad)

    def _size(self, size: int | torch.SymInt) -> Any:
        if not isinstance(size, torch.SymInt):
            return size
        expression = size.node.expr
        if not expression.free_symbols <= self._symbols:
            raise _Unknown
        self._sizes.setdefault(expression, size)
        return expression

    def _made(self, found: Any) -> Any:
        """Fake tensors of the types of a result."""
        if not isinstance(found, _Type):
            kind, *parts = found
            return kind(map(self._made, parts))
        sizes, strides = [self._named(s) for s in found.sizes], [self._named(s) for s in found.strides]
        with in_kernel_invocation_manager(self._mode), self._env.suppress_guards():
            empty = torch.empty_strided(sizes, strides, dtype=found.dtype, device="meta", requires_grad=found.learned)
            if found.offset != 0:
                with torch.no_grad():
                    empty.set_(empty.untyped_storage(), self._named(found.offset), sizes, strides)
        return FakeTensor(self._mode, empty, found.device)

    def _named(self, size: Any) -> Any:
        if isinstance(size, int):
            return size
        if size not in self._sizes:
            self._sizes[size] = self._env.create_symintnode(size, hint=None)  # type: ignore[assignment]
        return self._sizes[size]


def _is_kept(target: Any) -> bool:
    """Whether an op is functional, and known: what others read of their operands is not."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target not in _KEPT:
        row = lookup_name(target_name(target))
        _KEPT[target] = row is not None and not target._schema.is_mutable
    return _KEPT[target]


_KEPT: dict[Any, bool] = {}
