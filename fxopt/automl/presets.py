"""Recipes that a search begins with: exact passes alone, int8, what ships with the model, what won on this device before, and
what ships with other models."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from fxopt import registry
from fxopt.automl.records import Record
from fxopt.automl.space import At, Point, Space
from fxopt.driver.recipe import Recipe, read_recipe
from fxopt.errors import FxoptError, ResourceError
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.support.cache_folder import cache_folder
from fxopt.support.scratch import write_whole
from fxopt.target import Target


def presets(space: Space, recipe: Recipe, target: Target) -> list[Record]:
    """Recipes to try first, each once: the given one, then the cheapest to try."""
    found = [("given", _read(recipe.passes, recipe.backend))] if recipe.passes else []
    backend = space.backends[0]
    found += [
        ("exact", _with(space, backend)),
        *((name, _with(space, backend, name)) for name in ("quantize",) if space.find(name)),
    ]
    shipped = list(_shipped())
    found += [("shipped", _read(other.passes, other.backend)) for other in shipped if other.model == recipe.model]
    found += [("won before", point) for point in _won(target)]
    found += [("shipped with another", point) for other in shipped if (point := _inside(space, other)) is not None]
    once = {point: name for name, point in reversed(found)}
    return [Record(passes=p.passes, backend=p.backend, preset=once.pop(p)) for _, p in found if p in once]


def _with(space: Space, backend: str, name: str | None = None) -> Point:
    """The exact passes, and one more with its first options."""
    chosen = space.find(name) if name else None
    return space.suggest(At({"backend": backend, **({chosen.stage: chosen.name} if chosen else {})}))


def _read(passes: Sequence[str], backend: str) -> Point:
    """The point of a recipe, in the spelling that the space has, so that a recipe is known again."""
    return Point(tuple(map(str, Pipeline.parse(passes).passes)), backend)


def _inside(space: Space, recipe: Recipe) -> Point | None:
    """The point of a recipe for another model, on a backend of the space; None where it has passes that the space has not."""
    try:
        point = _read(recipe.passes, recipe.backend if recipe.backend in space.backends else space.backends[0])
        known = all(space.find(pass_.name) is not None for pass_ in Pipeline.parse(point.passes).passes)
    except FxoptError:  # a pass of a package that is gone
        return None
    return point if known else None


def _shipped() -> Iterator[Recipe]:
    """Recipes beside the modules that registered models come from."""
    modules = {entry.value.partition(":")[0] for entry in registry.entries("workload")}
    folders = {path.parent for module in modules if (path := registry.source_of(module)) is not None}
    for path in sorted(path for folder in folders for path in folder.glob("*.toml")):
        with contextlib.suppress(FxoptError):  # another kind of file
            yield read_recipe(path)


def _won(target: Target) -> Iterator[Point]:
    path = _winners(target)
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    for passes, backend in found.values():
        with contextlib.suppress(FxoptError):  # a pass of a package that is gone
            yield _read(passes, backend)


def remember(target: Target, model: str, point: Point) -> None:
    """Store the winner for a model on a target, for searches of other models; if it cannot be written, nothing happens."""
    path = _winners(target)
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
        found[model] = [list(point.passes), point.backend]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found, indent=1).encode())
    except (OSError, ValueError, ResourceError):
        return


def _winners(target: Target) -> Path:
    facts = {k: v for k, v in target.to_dict().items() if k not in ("name", "address")}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / "winners" / f"{digest}.json"
