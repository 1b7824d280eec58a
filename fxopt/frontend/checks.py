"""Checks of module, inputs and outputs before torch.export is called, with the way out."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import CaptureError

_INPUTS = (
    *(torch.Tensor, int, float, complex, bool, str, bytes, type(None)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.ScriptObject),
)
"""Types that torch.export takes as inputs."""


def check_python(module: torch.nn.Module) -> None:
    """Raise CaptureError for a scripted or traced module."""
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            f"{module.original_name} is a scripted module, which torch.export does not take",
            way_out="capture the Python module that it was scripted from",
        )


def check_inputs(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
    """Raise CaptureError for inputs of a class that is not known as a structure of tensors."""
    for path, leaf in pytree.tree_leaves_with_path((args, kwargs)):
        if not isinstance(leaf, _INPUTS):
            name = type(leaf).__name__
            raise CaptureError(
                f"{type(module).__name__} takes a {name} (input{pytree.keystr(path[1:])}), and a program takes tensors",
                way_out=(
                    f"{_make_known(leaf)}, or wrap the model in a module that takes tensors and makes the "
                    f"{name} of them"
                ),
            )


def check_outputs(module: torch.nn.Module, outputs: Any) -> None:
    """Raise CaptureError for outputs that are not tensors, numbers and None in a known structure."""
    leaves = pytree.tree_leaves(outputs)
    for leaf in leaves:
        if not isinstance(leaf, (torch.Tensor, int, float, bool, type(None))):
            ways = "wrap the model in a module that returns the tensors in it (as a tuple, list or dict)"
            if "use_cache" in inspect.signature(module.forward).parameters:
                ways = f"give it the keyword use_cache=False, so that it returns no cache; or {ways}"
            elif not isinstance(leaf, str):
                ways += f",\n  or {_make_known(leaf)}"
            raise CaptureError(
                f"{type(module).__name__} returns a {type(leaf).__name__}, and a program returns tensors", way_out=ways
            )
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise CaptureError(
            f"{type(module).__name__} returns no tensor: {outputs!r:.80}", way_out="a program returns at least one"
        )


def _make_known(value: Any) -> str:
    name = type(value).__name__
    if not dataclasses.is_dataclass(value):
        return f"make {name} known: torch.utils._pytree.register_pytree_node({name}, flatten, unflatten)"
    return f"make {name} known: torch.export.register_dataclass({name}, serialized_type_name={f'my_package.{name}'!r})"
