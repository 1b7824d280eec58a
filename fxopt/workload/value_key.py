"""A digest of a value by content: plain values, arrays, programs, functions with their closures, objects of these."""

from __future__ import annotations

import functools
import hashlib
import types
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from fxopt.ir.program import Program
from fxopt.ir.program_state import program_digest
from fxopt.support.code_stamp import code_stamp


class Unkeyed(Exception):
    """A value whose content has no digest: an open file, code without a source."""


def value_key(value: Any) -> str:
    """sha256 of a value's content; equal values of the same code have equal keys in every process. Raises Unkeyed."""
    digest = hashlib.sha256()
    _feed(digest, value, {})
    return digest.hexdigest()


def _feed(digest: Any, value: Any, seen: dict[int, tuple[int, Any]]) -> None:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, PurePath, torch.dtype, np.dtype)):
        digest.update(f"{type(value).__name__}:{value!r}\n".encode())
        return
    if id(value) in seen:
        digest.update(f"again:{seen[id(value)][0]}\n".encode())
        return
    seen[id(value)] = len(seen), value  # kept alive: an id is reused
    digest.update(f"{type(value).__module__}.{type(value).__qualname__}\n".encode())
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise Unkeyed(f"a tensor {value.layout} on {value.device}")
        digest.update(f"{value.dtype}:{tuple(value.shape)}:".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise Unkeyed("an array of objects")
        digest.update(f"{value.dtype.str}:{value.shape}:".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Program):
        _feed(digest, _known(program_digest(value), "a program that cannot be written"), seen)
    elif isinstance(value, torch.Generator):
        _feed(digest, value.get_state(), seen)
    else:
        _feed_parts(digest, value, seen)


def _feed_parts(digest: Any, value: Any, seen: dict[int, tuple[int, Any]]) -> None:
    parts: Any
    if isinstance(value, (set, frozenset)):
        parts = sorted(map(value_key, value))
    elif isinstance(value, dict):
        parts = [part for item in value.items() for part in item]
    elif isinstance(value, (tuple, list)):
        parts = [len(value), *value]
    elif isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        parts = (value.__func__, value.__self__)
    elif isinstance(value, types.ModuleType):
        parts = (value.__name__, _known(code_stamp(value.__name__), f"the module {value.__name__}"))
    elif isinstance(value, type):
        parts = (value.__qualname__, _code_of(value))
    elif isinstance(value, types.BuiltinFunctionType):
        parts = (value.__qualname__, value.__module__)
    elif isinstance(function := getattr(value, "__wrapped__", value), types.FunctionType):
        parts = _function(function)
    else:
        parts = _object(value)
    for part in parts:
        _feed(digest, part, seen)


def _function(function: types.FunctionType) -> tuple[Any, ...]:
    """Its own code, that of its module, defaults, and its closure, which may differ between two of the same source."""
    try:
        cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    except ValueError as error:
        raise Unkeyed(f"{function.__qualname__}, which is not closed yet") from error
    code = function.__code__
    return (function.__qualname__, code.co_firstlineno, code.co_code, _code_of(function), function.__defaults__,
            function.__kwdefaults__, cells)  # fmt: skip


def _object(value: Any) -> tuple[Any, ...]:
    """An object of a Python class: its class and attributes."""
    if not hasattr(value, "__dict__") or type(value).__flags__ & 1 << 9 == 0:
        raise Unkeyed(f"a {type(value).__qualname__}")
    return (type(value), vars(value))


def _code_of(made: Any) -> str:
    """Stamp of the module of a function or class, and of a class's bases."""
    classes = [c for c in getattr(made, "__mro__", (made,)) if c.__module__ != "builtins"]
    modules = sorted({c.__module__ for c in classes})
    return _known(code_stamp(*modules), f"{made.__qualname__} of {', '.join(modules)}") if modules else "builtins"


def _known(key: str | None, what: str) -> str:
    if key is None:
        raise Unkeyed(what)
    return key
