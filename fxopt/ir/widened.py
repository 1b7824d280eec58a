"""Weights in float64 that are held in their own precision, and widened when an op reads them.

A program in float64 would take twice the memory of its float32 weights. Every float32 number is one in float64, so the
weight that a program has anyway is enough: an op gets a float64 tensor of its own for as long as it runs. What picks
elements, as ``index_select``, gives such a weight again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fxopt.ir.held_weight import WIDE, Held

_FACTS = frozenset([
    "__get__", "__set__", "size", "dim", "ndimension", "stride", "storage_offset", "numel", "nelement",
    "element_size", "is_floating_point", "is_complex", "is_contiguous", "get_device", "requires_grad_",
    "is_inference", "is_conj", "is_neg", "is_signed", "__hash__", "__len__", "detach",
])  # fmt: skip
"""What is known of a tensor without its numbers."""

_VIEWS = frozenset([
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze", "squeeze", "movedim",
    "narrow", "select", "split", "split_with_sizes", "chunk", "unbind", "diagonal", "expand", "T", "mT", "__getitem__",
])  # fmt: skip
"""What picks elements, and may give the memory of its operand."""

_PICKS = _VIEWS | {"index_select"}
"""What picks elements."""


class Widened(torch.Tensor):
    """A float64 tensor (complex128 for a complex one) that holds the memory of a narrower one.

    A weight of a program is not written into: ``_version`` tells of it, as for any tensor, and the memory stays as it was. A
    result that no program has yet may be; it is a float64 tensor then. ``data_ptr`` and ``untyped_storage`` are of the
    memory held.
    """

    _held: Held

    @staticmethod
    def __new__(cls, narrow: torch.Tensor, *, held: Held | None = None) -> Widened:
        """Of a tensor whose dtype is in :data:`WIDE`."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, narrow.shape, strides=narrow.stride(), dtype=WIDE.get(narrow.dtype, narrow.dtype), device=narrow.device
        )
        made._held = held or Held(narrow, fresh=False)
        return made

    @property
    def memory(self) -> torch.Tensor:
        """What holds its numbers: the narrower tensor, or a float64 one after a write."""
        held = self._held
        return held.wide() if held.narrow is None else held.narrow

    @property
    def _version(self) -> int:  # type: ignore[override]
        return self._held.writes

    def settle(self) -> None:
        """Say that a program has it now, and nothing writes into it any more."""
        self._held.fresh = False

    def data_ptr(self) -> int:
        """The address of the memory held."""
        return self.memory.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """The memory held."""
        return self.memory.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        own = self.memory.detach().clone()
        copy: torch.Tensor = Widened(own) if own.dtype in WIDE else own
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        memo[id(self)] = copy
        return copy

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        name, first, kwargs = _name(func), args[0] if args else None, kwargs or {}
        if func == _SET_DATA and isinstance(first, Widened):
            first._held = Held(None, fresh=True, wide=args[1].detach())
            return None
        if name in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if isinstance(first, Widened) and first._held.narrow is not None:
            if name == "contiguous" and not kwargs and first.is_contiguous():
                return first
            if name in _PICKS and not (first._held.fresh and name in _VIEWS) and not _others(args[1:], kwargs):
                return _pick(func, first._held, args[1:], kwargs)
            if name == "equal" and isinstance(args[1], Widened) and args[1].memory.dtype == first.memory.dtype:
                return torch.equal(first.memory, args[1].memory)  # every number has one in float64 of its own
        return _call(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return Widened(args[0].memory, held=args[0]._held)
        return _call(func, args, kwargs or {})


def widened_for_good(tensors: Iterable[torch.Tensor]) -> dict[int, torch.Tensor]:
    """By the ``id`` of each weight that is held narrow its float64 tensor, for a copy of a program that has gradients."""
    found: dict[int, torch.Tensor] = {}
    for tensor in tensors:
        if isinstance(tensor, Widened):
            wide = tensor.memory.detach().to(tensor.dtype)
            found[id(tensor)] = (
                torch.nn.Parameter(wide, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else wide
            )
    return found


def _name(func: Callable[..., Any]) -> str:
    """``view`` for the method, the function and any overload of the op; ``T`` for what reads the attribute."""
    name = getattr(func, "__name__", "").split(".")[0]
    attribute = getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else ""
    return attribute if attribute in _PICKS else name


_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


def _others(args: Any, kwargs: Any) -> bool:
    """Whether there is more than numbers and indices besides the operand."""
    return any(isinstance(v, (Widened, torch.dtype)) for v in pytree.tree_leaves((args, kwargs)))


def _pick(func: Callable[..., Any], held: Held, args: Any, kwargs: Any) -> Any:
    """Elements of a weight that is held narrow."""
    assert held.narrow is not None
    memory = held.narrow.untyped_storage().data_ptr()

    def widened(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        shares = value.untyped_storage().data_ptr() == memory
        return Widened(value, held=Held(value, fresh=not shares, lent=held.lent if shares else None))

    return pytree.tree_map(widened, func(held.narrow.detach(), *args, **kwargs))


def _call(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function on float64 tensors in place of the weights. One that it wrote into, or gave a view of, is kept wide."""
    used: dict[int, tuple[Widened, torch.Tensor, int]] = {}

    def wide(value: Any) -> Any:
        if not isinstance(value, Widened):
            return value
        made = value._held.wide()
        used.setdefault(id(made), (value, made, made._version))
        return made

    wide_args, wide_kwargs = pytree.tree_map(wide, (args, kwargs))
    found = func(*wide_args, **wide_kwargs)
    given = [v for v in pytree.tree_leaves(found) if isinstance(v, torch.Tensor)]
    for weight, made, version in used.values():
        views = any(
            v is not made and v.untyped_storage().data_ptr() == made.untyped_storage().data_ptr() for v in given
        )
        if made._version != version or views or (weight._held.fresh and isinstance(found, np.ndarray)):
            weight._held.keep(made)
    return used[id(found)][0] if id(found) in used else found
