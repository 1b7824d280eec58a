"""JSON Schemas (draft 2020-12) of what fxopt reads and writes: recipes, for editors; report.json, for whoever reads it."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from fxopt import registry
from fxopt.driver.recipe_file import RecipeFile
from fxopt.driver.report import SCHEMA_VERSION, BuildReport

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe, with the names that are registered here for an editor to complete."""
    schema = TypeAdapter(RecipeFile).json_schema()
    keys: dict[str, Any] = schema["properties"]
    passes = _one_of(registry.names("pass"))
    keys["passes"]["anyOf"] = [{"type": "array", "items": passes}, {"type": "string"}]
    for key, kind in (("model", "workload"), ("backend", "backend"), ("target", "target")):
        keys[key] = {name: value for name, value in keys[key].items() if name != "type"} | _one_of(registry.names(kind))
    names = {"type": "array", "items": _one_of(registry.names("pass"))}
    keys["search"] |= {
        "properties": {
            "passes": names,
            "require": names,
            "backends": {"type": "array", "items": _one_of(registry.names("backend"))},
            **{name: {"type": "object"} for name in registry.names("pass")},
        },
        "additionalProperties": False,
    }
    return {"$schema": _DIALECT, **schema, "title": "Recipe of fxopt"}


def report_schema() -> dict[str, Any]:
    """The schema of report.json of this version; readers of it should take fields that are new."""
    schema = BuildReport.model_json_schema(by_alias=True, mode="serialization")
    schema["properties"]["schema_version"] |= {"const": SCHEMA_VERSION}
    schema["required"] = sorted({*schema["required"], "schema_version"})
    return {"$schema": _DIALECT, **schema, "title": f"report.json of fxopt, schema_version {SCHEMA_VERSION}"}


def _one_of(names: list[str]) -> dict[str, Any]:
    """Text, for which an editor offers these names; options, colons and files make others of them."""
    return {"anyOf": [{"enum": names}, {"type": "string"}]}
