"""The manual of a pass, a backend or a workload, made of its docstring and its options."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Any

from fxopt import registry
from fxopt.errors import UnknownNameError
from fxopt.options import type_hints, type_name


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


def explain(name: str) -> Manual:
    """Find a name among passes, backends and workloads. Raises UnknownNameError."""
    for kind in ("pass", "backend", "workload"):
        if name in registry.names(kind):
            return _manual(name, kind, registry.get(kind, name))
    known = [n for kind in ("pass", "backend", "workload") for n in registry.names(kind)]
    raise UnknownNameError("pass, backend or workload", name, known)


def _manual(name: str, kind: str, thing: Any) -> Manual:
    doc = inspect.getdoc(thing) or "(no description)"
    facts: dict[str, Any] = {}
    if kind == "pass":
        facts["outputs"] = "proved equal" if thing.kind == "exact" else "approximate"
    if dataclasses.is_dataclass(thing) and isinstance(thing, type):
        hints = type_hints(thing)
        options = [(f.name, hints[f.name], f.default) for f in dataclasses.fields(thing)]
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
