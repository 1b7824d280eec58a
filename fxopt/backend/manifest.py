"""The manifest of an artifact: its interface, the backend and target, and the sha256 of every file."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from fxopt.errors import UsageError
from fxopt.target import Target

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; one that is added leaves it."""


def _target(value: Any) -> Any:
    try:
        return Target.of(value) if isinstance(value, dict) else value
    except UsageError as error:
        raise ValueError(error.what) from None


def _inside(name: str) -> str:
    """A name that stays in its folder on every system; a manifest may come from anybody."""
    path = PurePosixPath(name)
    if not name.isprintable() or "\\" in name or ":" in name or name != str(path) or path.is_absolute():
        raise ValueError("not a plain relative name of a file")
    if not path.parts or ".." in path.parts:
        raise ValueError("the name leaves the folder of the artifact")
    return name


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not one line of printable text")
    return text


_AsTable = Annotated[Target, BeforeValidator(_target), PlainSerializer(lambda target: target.to_dict())]
_Line = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]
_Size = Annotated[int, Field(ge=0, lt=2**63)]
_DType = Annotated[str, Field(pattern=r"^(bool|u?int(8|16|32|64)|b?float(8|16|32|64)\w*|complex(64|128))$")]
Files = dict[Annotated[str, AfterValidator(_inside)], Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
"""sha256 of each file as hex, by its name relative to the folder, with ``/`` between parts."""


class TensorInput(BaseModel):
    """An input: sizes are numbers, or names of dynamic dims; ``example`` are the sizes at capture."""

    model_config = ConfigDict(extra="forbid")

    name: _Line
    shape: list[_Size | _Line]
    example: list[_Size]
    dtype: _DType

    @model_validator(mode="after")
    def _one_example_of_each_dim(self) -> TensorInput:
        if len(self.shape) != len(self.example):
            raise ValueError(f"{len(self.shape)} dims, and an example of {len(self.example)}")
        return self


class ConstantInput(BaseModel):
    """An input that was a number or the like at capture, and is part of the graph."""

    model_config = ConfigDict(extra="forbid")

    name: _Line
    constant: Any


class Output(BaseModel):
    """An output, with its sizes for the example inputs."""

    dtype: _DType
    example: list[_Size]


class Interface(BaseModel):
    """How an artifact is called. Nesting is that of :mod:`fxopt.runtime.treespec`; ``dims`` are bounds by name."""

    inputs: list[TensorInput | ConstantInput]
    in_tree: Any
    outputs: list[Output]
    out_tree: Any
    dims: dict[_Line, tuple[_Size | None, _Size | None]]

    @property
    def tensors(self) -> list[TensorInput]:
        """The inputs that a runner takes, in order."""
        return [fact for fact in self.inputs if isinstance(fact, TensorInput)]


class Manifest(Interface):
    """All of ``manifest.json``. ``facts`` is what the backend's ``build`` returned; unknown fields are kept.

    ``splits``: whether a batch above its upper bound is run in parts, as no example has a say in another's result.
    """

    model_config = ConfigDict(extra="allow")

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    backend: _Line
    target: _AsTable
    recipe: dict[str, Any] | None = None
    history: list[str] = []
    versions: dict[_Line, Annotated[str, Field(pattern=r"^[\w.!+-]{1,100}$")]] = {}
    files: Files
    facts: dict[str, Any] = {}
    splits: bool = False
    choice: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON holds them."""
        values = self.model_dump(mode="json")
        return {key: value for key, value in values.items() if value is not None or key not in ("choice", "measured")}
