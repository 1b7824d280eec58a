"""The space that a search starts with: every pass with a stage, as the recipe's ``[search]`` table widens or narrows it."""

from __future__ import annotations

import dataclasses
from typing import Any

from fxopt import registry
from fxopt.automl.dimensions import Dimension, asked, dimensions_of
from fxopt.automl.space import STAGES, PassSpace, Space
from fxopt.errors import OptionError, UnknownNameError, UsageError
from fxopt.pass_manager.pass_base import Pass, Stage

_KEYS = ("passes", "require", "backends")


def read_space(table: dict[str, Any], backends: tuple[str, ...], written: tuple[str, ...] = ()) -> Space:
    """The space of a search.

    ``table`` is ``[search]`` of a recipe: ``passes``, the names of those to search; ``require``, those that every recipe has;
    ``backends``; and for a pass a table with ``stage``, where it has none of its own, and options, each a value to fix, a
    list of choices, or two numbers from which to which. ``written`` are the recipe's own passes: options of theirs that do
    not vary stay as they are written. Raises UnknownNameError, OptionError, UsageError for a space that is empty or
    contradicts itself.
    """
    names = registry.names("pass")
    for key in table:
        if key not in (*_KEYS, *names):
            raise UnknownNameError("key in [search]", key, [*_KEYS, *names])
    lists = {key: _texts(key, table[key]) for key in _KEYS if key in table}
    wanted, required = lists.get("passes"), lists.get("require", ())
    for name in (*(wanted or ()), *required):
        if name not in names:
            raise UnknownNameError("pass in [search]", name, names)
    spaces = []
    for name in dict.fromkeys((*names, *required)):
        cls: type[Pass] = registry.get("pass", name)
        own = table.get(name)
        if own is not None and not isinstance(own, dict):
            raise OptionError(f"[search] {name} is a table of options, got {own!r}")
        named = name in (*(wanted or ()), *required) or own is not None
        if not named and (cls.stage is None or (wanted is not None and cls.stage != "exact")):
            continue
        spaces.append(pass_space(cls, own or {}))
    spaces.sort(
        key=lambda p: (STAGES.index(p.stage), len(p.cls().steps()) > 1, p.name)
    )  # composites clean up after others
    space = Space(tuple(spaces), tuple(lists.get("backends", backends)), frozenset(required))
    _check(space)
    return space.around(written)


def pass_space(cls: type[Pass], own: dict[str, Any]) -> PassSpace:
    """What a search varies of a pass, with the pass's ``own`` table of ``[search]``. Raises UsageError and its kinds."""
    own = dict(own)
    stage: Stage | None = own.pop("stage", cls.stage)
    if stage not in STAGES:
        if stage is not None:
            raise UnknownNameError(f"stage of {cls.name} in [search]", str(stage), STAGES)
        raise UsageError(
            f"[search]: {cls.name} says no stage, so a search does not know where in a recipe it stands",
            way_out=f'write [search.{cls.name}] stage = "…", one of {", ".join(STAGES)}',
        )
    options = [f.name for f in dataclasses.fields(cls)]
    for name in own:
        if name not in options:
            raise UnknownNameError(f"option of {cls.name} in [search.{cls.name}]", name, options)
    dimensions = {d.name: d for d in dimensions_of(cls)}
    fixed: dict[str, Any] = {}
    for name, value in own.items():
        dimensions.pop(name, None)
        found = asked(cls, name, value)
        if isinstance(found, Dimension):
            dimensions[name] = found
        else:
            fixed[name] = tuple(found) if isinstance(found, list) else found
    for group in cls.one_of:
        if set(group) & set(fixed):  # one of the group is given: the others are not
            dimensions = {n: d for n, d in dimensions.items() if n not in group}
    return PassSpace(cls, stage, tuple(dimensions.values()), fixed)


def _check(space: Space) -> None:
    if not space.backends:
        raise UsageError("[search]: no backend is left to search with", way_out='name one: backends = ["onnx"]')
    for stage in STAGES:
        both = [p.name for p in space.at(stage) if p.name in space.required]
        if len(both) > 1 and stage != "exact":
            raise UsageError(
                f"[search]: a recipe has one pass of the stage {stage!r}, and {' and '.join(both)} are required",
                way_out="require one of them, or give the other another stage",
            )
    if all(p.stage == "exact" for p in space.passes) and len(space.backends) == 1:
        raise UsageError(
            "[search]: nothing is left to search: one backend, and no pass but exact ones",
            way_out='name passes, such as passes = ["prune_channels", "quantize"]; `fxopt explain search` lists them',
        )
    for pass_space in space.passes:
        list(pass_space.points())


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise OptionError(f"[search] {key} is a list of names, got {value!r}")
    return tuple(value)
