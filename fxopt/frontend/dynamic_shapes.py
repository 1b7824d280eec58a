"""Dynamic dims in the form that ``torch.export`` asks for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

Dims = dict[int, Any] | None
"""Which dims of one input are dynamic, as ``torch.export.Dim``; None where none is."""


def dynamic_shapes(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dims: list[Dims]) -> Any:
    """``dims`` of the flat inputs as the ``dynamic_shapes`` of ``torch.export.export(module, args, kwargs)``.

    One entry per argument of ``forward``, in its order; containers keep their structure, and an instance of a class
    registered with pytree is the list of its children.
    """
    spec = pytree.tree_structure((args, kwargs))
    arguments, keywords = spec.children()
    given = iter(dims)
    positional = [_shape_tree(child, given) for child in arguments.children()]
    named = {n: _shape_tree(child, given) for n, child in zip(keywords.context, keywords.children(), strict=True)}
    return dict(inspect.signature(module.forward).bind(*positional, **named).arguments)


def _shape_tree(spec: pytree.TreeSpec, dims: Iterator[Dims]) -> Any:
    if spec.is_leaf():
        return next(dims)
    children = [_shape_tree(child, dims) for child in spec.children()]
    if spec.type not in pytree.BUILTIN_TYPES:
        return children
    return pytree.SUPPORTED_NODES[spec.type].unflatten_fn(children, spec.context)


def widened(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs with two indices or more in every dim that ``shapes``, as given to ``torch.export``, calls dynamic."""
    if not isinstance(shapes, (dict, tuple, list)):
        return args, kwargs
    positional, named = _by_argument(module, args, kwargs, shapes)
    wide = tuple(_widened(value, dims) for value, dims in zip(args, positional, strict=True))
    return wide, {name: _widened(value, named[name]) for name, value in kwargs.items()}


def two_or_more(value: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Extend a dim of size 0 or 1 to 2: torch takes such sizes for constants."""
    if value.shape[dim] == 0:
        return value.new_zeros([2 if i == dim else n for i, n in enumerate(value.shape)])
    return torch.cat([value, value], dim) if value.shape[dim] == 1 else value


def _by_argument(module: torch.nn.Module, args: Any, kwargs: Any, shapes: Any) -> tuple[list[Any], dict[str, Any]]:
    """The part of ``shapes`` for each positional argument and for each keyword."""
    if not isinstance(shapes, dict):
        every = [*shapes, *[None] * (len(args) + len(kwargs) - len(shapes))]
        return every[: len(args)], dict(zip(kwargs, every[len(args) :], strict=False))
    names: list[str] = []
    rest: list[Any] = []
    keywords: dict[str, Any] = {}
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = list(shapes.get(parameter.name) or ())
        elif parameter.kind is parameter.VAR_KEYWORD:
            keywords = shapes.get(parameter.name) or {}
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            names.append(parameter.name)
    positional = [*(shapes.get(name) for name in names), *rest, *[None] * len(args)]
    return positional[: len(args)], {name: shapes.get(name, keywords.get(name)) for name in kwargs}


def _widened(value: Any, dims: Any) -> Any:
    if not dims:
        return value
    if isinstance(value, torch.Tensor):
        for dim, size in dims.items() if isinstance(dims, dict) else enumerate(dims):
            value = value if size is None or isinstance(size, int) else two_or_more(value, dim)
    elif isinstance(value, dict) and isinstance(dims, dict):
        return {key: _widened(inner, dims.get(key)) for key, inner in value.items()}
    elif type(value) in (list, tuple) and isinstance(dims, (list, tuple)) and len(value) == len(dims):
        return type(value)(_widened(inner, some) for inner, some in zip(value, dims, strict=True))
    return value
