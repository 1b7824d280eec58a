"""The manual of whatever is registered, made of its docstring and its options; and what an analysis finds."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fxopt import registry
from fxopt.cli.read_options import GIVEN, NEEDED, Options, Read, Unreadable, read
from fxopt.errors import UnknownNameError, UsageError
from fxopt.support.options import documentation, type_name

if TYPE_CHECKING:
    from fxopt.driver.debugged import Debugged


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
            for option in self.options:
                default = option["default"] if option["default"] == "needed" else f"default {option['default']}"
                lines.append(f"    {option['name']}: {option['type']}, {default}")
                lines += [f"        {option['help']}"] if "help" in option else []
        return "\n".join(lines)


_OUTPUTS = {"exact": "proved equal", "approx": "approximate"}
_KINDS = ("pass", "backend", "workload", "target", "device", "analysis", "block")


@runtime_checkable
class Shown(Protocol):
    """What an analysis returns, and whatever else is explained."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""

    def text(self) -> str:
        """Lines for a console."""


def explain(name: str) -> Manual:
    """Find a name among all that is registered. Raises UnknownNameError, UsageError for what cannot be loaded."""
    for kind in _KINDS:
        if name in registry.names(kind):
            return _manual(name, kind)
    raise UnknownNameError(
        "name", name, [n for k in _KINDS for n in registry.names(k)], hint="`fxopt --help` has the lists"
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


def analyse(name: str, model: str, backend: str, target: str) -> Shown | Debugged:
    """Capture a model and run an analysis over it, for a backend and a target.

    Raises UnknownNameError, UsageError, CaptureError, and what the analysis raises.
    """
    from fxopt.runtime.staging import MANIFEST

    analysis = registry.get("analysis", name)
    if (Path(model) / MANIFEST).is_file():
        raise UsageError(
            f"{model} is an artifact, and an analysis looks into a model",
            way_out=f"`fxopt debug {model}` finds where it loses accuracy; or give the model of its recipe",
        )
    from fxopt.backend import find_backend
    from fxopt.pass_manager.context import Context
    from fxopt.target import find_target
    from fxopt.workload import find_workload

    workload = find_workload(model)
    context = Context(workload, find_target(target), find_backend(backend))
    found: Shown | Debugged = analysis(workload.capture(), context)
    return found


def _manual(name: str, kind: str) -> Manual:
    value = registry.origin(kind, name)
    if value is not None and kind in ("pass", "backend", "workload", "analysis", "block"):
        try:
            return read_manual(name, kind, read(value))
        except Unreadable:
            pass
    return loaded_manual(name, kind, registry.get(kind, name))


def read_manual(name: str, kind: str, found: Read) -> Manual:
    """The manual of a thing whose source was read."""
    facts: dict[str, Any] = {}
    if kind == "pass":
        facts["outputs"] = _OUTPUTS[found.said.get("kind", "exact")]
    if kind == "block":
        facts["for"] = " or ".join(found.kinds)
    return Manual(name, kind, found.doc or "(no description)", _rows(found.options), facts)


def loaded_manual(name: str, kind: str, thing: Any) -> Manual:
    """The manual of a thing that is imported."""
    if kind == "target":
        return _target_manual(name, thing)
    doc = inspect.getdoc(thing) or "(no description)"
    facts: dict[str, Any] = {}
    options: Options = []
    if kind == "pass":
        facts["outputs"] = _OUTPUTS[thing.kind]
    if dataclasses.is_dataclass(thing) and isinstance(thing, type):
        hints = typing.get_type_hints(thing, include_extras=True)
        fields = [(f, NEEDED if f.default is dataclasses.MISSING else f.default) for f in dataclasses.fields(thing)]
        options = [(f.name, hints[f.name], default) for f, default in fields]
    elif kind == "block":
        facts["for"] = " or ".join(thing.kinds)
        options = _parameters(thing.function, list(thing.options.values()))
    elif inspect.isfunction(thing):
        given = inspect.signature(thing).parameters
        options = _parameters(thing, [parameter for name, parameter in given.items() if name not in GIVEN])
    return Manual(name, kind, doc, _rows(options), facts)


def _target_manual(name: str, thing: Any) -> Manual:
    from fxopt.target import find_target

    summary = next(entry.summary for entry in registry.entries("target") if entry.name == name)
    try:
        facts = {key: value for key, value in find_target(name).to_dict().items() if key != "name"}
    except UsageError as error:  # a part of this machine that it lacks
        return Manual(name, "target", f"{summary}\n\n{error}")
    lines = [f"    {key:<16} {' '.join(value) if isinstance(value, list) else value}" for key, value in facts.items()]
    return Manual(
        name, "target", "\n".join([summary, "", *lines, "", f"Build for it: fxopt build MODEL -t {name} -o OUT"])
    )


def _parameters(function: Any, parameters: list[inspect.Parameter]) -> Options:
    hints = typing.get_type_hints(function, include_extras=True)
    return [(p.name, hints.get(p.name, Any), NEEDED if p.default is p.empty else p.default) for p in parameters]


def _rows(options: Options) -> tuple[dict[str, str], ...]:
    return tuple(
        {"name": name, "type": type_name(hint), "default": "needed" if default is NEEDED else repr(default)}
        | ({"help": said} if (said := documentation(hint)) else {})
        for name, hint, default in options
    )
