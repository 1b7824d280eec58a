"""Options read from source, without importing it: what a pass takes is known in a fraction of the time that torch needs.

Only the expressions that annotations and defaults are made of are evaluated. Where source is written in another way than
passes, backends and workloads usually are, :class:`Unreadable` says so, and who asked imports the thing instead.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from fxopt import registry

_IMPORTED = ("typing", "collections.abc", "annotated_types", "annotated_doc", "pathlib", "fxopt.support.options")
"""Modules whose names are looked up by importing them, which takes no time."""
_LIGHT = {"Tune": "fxopt.support.options", "With": "fxopt.support.options"}
"""The names of ``fxopt`` itself that annotations use."""
Options = list[tuple[str, Any, Any]]
"""Name, type and default of each; ``NEEDED`` where there is none."""
NEEDED = object()
GIVEN = ("program", "context")
"""Parameters of passes and analyses that are no options."""


class Unreadable(Exception):
    """The source is not of the kind that can be read without importing it."""


@dataclass(frozen=True)
class Read:
    """A definition: its docstring, its options, and what its decorator was given."""

    doc: str | None
    options: Options
    said: dict[str, Any]
    kinds: tuple[str, ...] = ()


def read(value: str) -> Read:
    """Read the function or class that an entry point ``module:attribute`` names. Raises Unreadable."""
    module, _, attribute = value.partition(":")
    source = _source(module)
    node = source.defined.get(attribute)
    if node is None and attribute in source.imports:
        return read(source.imports[attribute])
    if isinstance(node, ast.ClassDef):
        fields, said = _fields(source, node)
        return Read(ast.get_docstring(node), fields, said)
    if isinstance(node, ast.FunctionDef):
        return _function(source, node)
    raise Unreadable(value)


class _Source(Mapping[str, Any]):
    """The top level of a module; as a mapping, the values of its names."""

    def __init__(self, name: str) -> None:
        path = registry.source_of(name)
        if path is None or path.suffix != ".py":
            raise Unreadable(name)
        body = ast.parse(path.read_text(encoding="utf-8")).body
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.name = name
        self.defined = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        self.imports: dict[str, str] = {}
        self.assigned: dict[str, ast.expr] = {}
        for node in body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    origin = registry.reexported_from(node, alias.asname or alias.name, package)
                    self.imports[alias.asname or alias.name] = str(origin)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.assigned[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self.assigned[node.target.id] = node.value

    def __getitem__(self, name: str) -> Any:
        if name in self.assigned:
            return self.value(self.assigned[name])
        if name in self.imports:
            return _imported(self.imports[name])
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise Unreadable(f"{self.name}:{name}")

    def __iter__(self) -> Any:
        return iter([*self.assigned, *self.imports])

    def __len__(self) -> int:
        return len(self.assigned) + len(self.imports)

    def value(self, expression: ast.expr) -> Any:
        """What an expression is worth. Raises Unreadable."""
        if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
            return expression.value
        try:
            code = compile(ast.Expression(body=expression), self.name, "eval")
            return eval(code, {"__builtins__": {}}, self)
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(f"{self.name}: {ast.unparse(expression)}") from error


_source = cache(_Source)


def _imported(origin: str) -> Any:
    module, _, name = origin.partition(":")
    if module == "fxopt" and name in _LIGHT:
        module = _LIGHT[name]
    if module in _IMPORTED:
        return getattr(importlib.import_module(module), name)
    return _source(module)[name]


def _function(source: _Source, node: ast.FunctionDef) -> Read:
    """A function with its decorator: a pass has its keyword-only parameters, anything else all of them."""
    said: dict[str, Any] = {}
    kinds: tuple[str, ...] = ()
    by = ""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        by = ast.unparse(call.func if call else decorator)
        if by not in ("graph_pass", "block_entry"):
            raise Unreadable(f"{source.name}:{node.name}")
        for keyword in call.keywords if call else ():
            if keyword.arg == "options_of" and isinstance(keyword.value, ast.Name):
                name = keyword.value.id
                other = read(source.imports.get(name, f"{source.name}:{name}"))
                return Read(ast.get_docstring(node), other.options, other.said)
            if keyword.arg == "kind":
                said["kind"] = source.value(keyword.value)
        kinds = tuple(str(source.value(arg)) for arg in call.args) if call and by == "block_entry" else ()
    arguments = node.args
    pairs = list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    if not by:
        places = [*arguments.posonlyargs, *arguments.args]
        pairs = [
            *zip(places, [*[None] * (len(places) - len(arguments.defaults)), *arguments.defaults], strict=True),
            *pairs,
        ]
    given = [(argument, default) for argument, default in pairs if argument.arg not in GIVEN]
    options = [_option(source, argument.arg, argument.annotation, default) for argument, default in given]
    return Read(ast.get_docstring(node), options, said, kinds)


def _fields(source: _Source, node: ast.ClassDef) -> tuple[Options, dict[str, Any]]:
    """The fields of a dataclass, those of its bases first; and the ``kind`` of a pass."""
    found: dict[str, tuple[str, Any, Any]] = {}
    said: dict[str, Any] = {}
    for base in node.bases:
        name = ast.unparse(base)
        module, _, attribute = source.imports.get(name, f"{source.name}:{name}").partition(":")
        if module == "fxopt":
            continue  # Pass and Backend, which have no options
        while attribute in _source(module).imports:
            module, _, attribute = _source(module).imports[attribute].partition(":")
        parent = _source(module).defined.get(attribute)
        if not isinstance(parent, ast.ClassDef):
            raise Unreadable(f"{source.name}:{node.name}")
        options, inherited = _fields(_source(module), parent)
        found |= {option[0]: option for option in options}
        said |= inherited
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name, annotation = line.target.id, ast.unparse(line.annotation)
            if not annotation.startswith("ClassVar"):
                found[name] = _option(source, name, line.annotation, line.value)
            elif name == "kind" and line.value is not None:
                said["kind"] = source.value(line.value)
    return list(found.values()), said


def _option(source: _Source, name: str, annotation: ast.expr | None, default: ast.expr | None) -> tuple[str, Any, Any]:
    hint = source.value(annotation) if annotation is not None else Any
    return name, hint, NEEDED if default is None else source.value(default)
