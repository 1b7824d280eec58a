"""``interface.txt``: a model's inputs and outputs, as lines of words for a program that reads no JSON.

::

    fxopt-interface 1
    target raspberry_pi_5, aarch64-linux-gnu with neon neon-dotprod
    dim batch 1 any
    input images float32 batch 1 8 8
    example 1 1 8 8
    output output float32 1 10
    option threads 4
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxopt.backend.manifest import Interface
from fxopt.errors import BackendError
from fxopt.runtime.staging import INTERFACE
from fxopt.runtime.treespec import Spec
from fxopt.target import Target

DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")
"""What the program can read and write."""


def interface_text(manifest: Interface, target: Target, options: dict[str, str]) -> str:
    """The text of a manifest's interface. Raises BackendError for a dtype that the program cannot read."""
    features = f" with {' '.join(sorted(target.features))}" if target.features else ""
    lines = ["fxopt-interface 1", f"target {target.name}, {target.triple}{features}"]
    lines += [f"dim {_word(name)} {low or 0} {high or 'any'}" for name, (low, high) in manifest.dims.items()]
    for fact in manifest.tensors:
        _check(fact.dtype, f"the input {fact.name!r}")
        lines.append(" ".join(["input", _word(fact.name), fact.dtype, *map(_word, fact.shape)]))
        lines.append(" ".join(["example", *map(str, fact.example)]))
    names = dict(reversed(list(_names(manifest.out_tree, ""))))  # an output that comes twice has its first name
    for number, output in enumerate(manifest.outputs):
        _check(output.dtype, f"the output {names[number]!r}")
        lines.append(" ".join(["output", _word(names[number]), output.dtype, *map(str, output.example)]))
    for name, value in options.items():
        if not value.isprintable():
            raise BackendError(f"the option {name!r} of the program is {value!r}, and is a line of {INTERFACE}")
        lines.append(f"option {name} {value}")
    return "\n".join(lines) + "\n"


def _check(dtype: str, where: str) -> None:
    if dtype not in DTYPES:
        raise BackendError(
            f"{where} is {dtype}, and a program without Python reads and writes {', '.join(DTYPES)}",
            way_out="cast in the model, at its inputs and outputs",
        )


def _word(value: Any) -> str:
    """One word: a dim may be a sum, with spaces in it, and a key of a dict anything."""
    return "".join(str(value).split()) or "_"


def _names(spec: Spec, path: str) -> Iterator[tuple[int, str]]:
    """Every leaf with where it is, as Python would write it: ``scores``, ``parts[0]``."""
    if isinstance(spec, int):
        yield spec, path or "output"
    elif spec is not None:
        kind, children = spec
        if kind == "dict":
            for key, child in children.items():
                yield from _names(child, f"{path}.{key}".lstrip("."))
        else:
            for i, child in enumerate(children):
                yield from _names(child, f"{path or 'output'}[{i}]")
