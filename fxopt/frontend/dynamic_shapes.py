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

    One entry an argument of ``forward``, in its order; a container keeps its form, and a class that is registered with
    pytree stands as the list of its children.
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
