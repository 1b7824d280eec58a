"""The manifest of an artifact: how it is called, what built it and for what, and the sha256 of every file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from fxopt.target import Target

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; one that is added leaves it."""

_AsTable = Annotated[
    Target,
    BeforeValidator(lambda value: Target.of(value) if isinstance(value, dict) else value),
    PlainSerializer(lambda target: target.to_dict()),
]


class TensorInput(BaseModel):
    """An input: sizes are numbers, or names of dynamic dims; ``example`` are the sizes at capture."""

    model_config = ConfigDict(extra="forbid")

    name: str
    shape: list[int | str]
    example: list[int]
    dtype: str


class ConstantInput(BaseModel):
    """An input that was a number or the like at capture, and is part of the graph."""

    model_config = ConfigDict(extra="forbid")

    name: str
    constant: Any


class Output(BaseModel):
    """An output, with its sizes for the example inputs."""

    dtype: str
    example: list[int]


class Interface(BaseModel):
    """How an artifact is called. Nesting is as :mod:`fxopt.runtime.treespec` has it; ``dims`` are bounds by name."""

    inputs: list[TensorInput | ConstantInput]
    in_tree: Any
    outputs: list[Output]
    out_tree: Any
    dims: dict[str, tuple[int | None, int | None]]

    @property
    def tensors(self) -> list[TensorInput]:
        """The inputs that a runner takes, in order."""
        return [fact for fact in self.inputs if isinstance(fact, TensorInput)]


class Manifest(Interface):
    """All of ``manifest.json``. ``facts`` is what the backend's ``build`` returned; unknown fields are kept."""

    model_config = ConfigDict(extra="allow")

    schema_version: Annotated[int, Field(le=SCHEMA_VERSION)] = SCHEMA_VERSION
    backend: str
    target: _AsTable
    recipe: dict[str, Any] | None = None
    history: list[str] = []
    versions: dict[str, str] = {}
    files: dict[str, str]
    facts: dict[str, Any] = {}
    choice: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON holds them."""
        values = self.model_dump(mode="json")
        return {key: value for key, value in values.items() if value is not None or key not in ("choice", "measured")}
