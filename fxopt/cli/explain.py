"""The manual of whatever is registered, made of its docstring and its options; and what an analysis finds."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Any, Protocol

from fxopt import registry
from fxopt.errors import UnknownNameError
from fxopt.support.options import type_hints, type_name


@dataclass(frozen=True)
class Manual:
    """What `fxopt explain` shows."""

    name: str
    kind: str
    doc: str
    options: tuple[dict[str, str], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """The manual as lines for a console."""
        head = ", ".join(f"{k} {v}" for k, v in self.facts.items())
        lines = [f"{self.name} ({self.kind}{', ' + head if head else ''})", "", self.doc]
        if self.options:
            lines += ["", "options:"]
            width = max(len(o["name"]) for o in self.options)
            lines += [f"    {o['name']:<{width}}  {o['type']}, default {o['default']}" for o in self.options]
        return "\n".join(lines)


_KINDS = ("pass", "backend", "workload", "analysis", "block")


class Shown(Protocol):
    """What an analysis returns, and whatever else is explained."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""

    def text(self) -> str:
        """Lines for a console."""


def explain(name: str) -> Manual:
    """Find a name among passes, backends, workloads, analyses and the library of blocks. Raises UnknownNameError."""
    for kind in _KINDS:
        if name in registry.names(kind):
            return _manual(name, kind, registry.get(kind, name))
    raise UnknownNameError(
        "pass, backend, workload, analysis or block", name, [n for k in _KINDS for n in registry.names(k)]
    )


@dataclass(frozen=True)
class Lines:
    """Lines of text."""

    lines: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"lines": list(self.lines)}

    def text(self) -> str:
        """Lines for a console."""
        return "\n".join(self.lines)


def search_space(name: str | None, backend: str) -> Lines:
    """What a search varies, of all passes or of one. Raises UnknownNameError, UsageError for a pass without a stage."""
    from fxopt.automl.read_space import read_space

    space = read_space({} if name is None else {"passes": [name]}, (backend,))
    found = None if name is None else space.find(name)
    return Lines(tuple(space.lines() if found is None else found.lines()))


def analyse(name: str, model: str, backend: str, target: str) -> Shown:
    """Capture a model and run an analysis over it, for a backend and a target.

    Raises UnknownNameError, UsageError, CaptureError, and what the analysis raises.
    """
    from fxopt.backend import find_backend
    from fxopt.pass_manager.context import Context
    from fxopt.target import find_target
    from fxopt.workload import find_workload

    analysis = registry.get("analysis", name)
    workload = find_workload(model)
    context = Context(workload, find_target(target), find_backend(backend))
    found: Shown = analysis(workload.capture(), context)
    return found


def _manual(name: str, kind: str, thing: Any) -> Manual:
    doc = inspect.getdoc(thing) or "(no description)"
    facts: dict[str, Any] = {}
    if kind == "pass":
        facts["outputs"] = "proved equal" if thing.kind == "exact" else "approximate"
    if dataclasses.is_dataclass(thing) and isinstance(thing, type):
        hints = type_hints(thing)
        options = [(f.name, hints[f.name], f.default) for f in dataclasses.fields(thing)]
    elif kind == "block":
        facts["for"] = " or ".join(thing.kinds)
        options = [(p.name, p.annotation, p.default) for p in thing.options.values()]
    elif inspect.isfunction(thing):
        parameters = inspect.signature(thing, eval_str=False).parameters.values()
        options = [(p.name, p.annotation, "needed" if p.default is p.empty else p.default) for p in parameters]
    else:
        options = []
    rows = tuple(
        {"name": n, "type": t if isinstance(t, str) else type_name(t), "default": d if d == "needed" else repr(d)}
        for n, t, d in options
    )
    return Manual(name, kind, doc, rows, facts)
