"""Validation of a ``.pt2`` archive before torch reads it.

``torch.export.load`` unpickles parts of the file, evaluates symbolic sizes as Python, imports the modules that a tree
structure names, and torch.fx writes the names of the file into Python source. So the archive is read here first, by
torch's own reader: weights must be raw bytes, example inputs must load with ``weights_only=True``, and every string
that reaches an interpreter must be a name, an operator or an arithmetic expression.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader
from torch.utils import _pytree as pytree

from fxopt.errors import RecipeError
from fxopt.frontend.pt2_sizes import size_bits

_WAY_OUT = "save the model with fxopt.save_program(program, 'model.pt2') or torch.export.save(exported, 'model.pt2')"

_NAME = re.compile(r"[A-Za-z_]\w*")
_PATH = re.compile(r"[^\"'\\\n\r]*")  # of a weight: module names may hold dashes, but nothing that ends a string
_OPERATOR = re.compile(r"torch\.ops\.\w+\.\w+(\.\w+)?|(_operator|math)\.\w+|torch\.(_?sym_\w+)")
_SYMBOL = re.compile(r"_?[suz][a-z_]*\d+")
_SYMBOL_CALL = re.compile(r"\bSymbol\('(_?[suz][a-z_]*\d+)'(?:, [a-z]+=(?:True|False))*\)")
_FLOAT_CALL = re.compile(r"\bFloat\('(-?[\d.]+(?:e[+-]?\d+)?)', precision=\d+\)")
_NO_NUMBER = ("Infinity", "-Infinity", "NaN")  # JSON has no other way to write these floats
_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)|([-+*/%(),<>=!&|~]))")
_FUNCTION = re.compile(
    "Add|Mul|Pow|Integer|Rational|FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural|"
    "FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity|Max|Min|Eq|Ne|"
    "Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|floor|ceiling|sqrt|"
    "Abs|true|false|True|False"
)
"""What sympy may be asked to evaluate in a symbolic size."""


_LONGEST, _MOST_BITS = 10_000, 4096
"""Characters of the longest symbolic size, and bits of the largest number in one, however it is written."""


def check_archive(path: Path) -> None:
    """Raise RecipeError unless a file is a ``torch.export`` archive that loads without executing its own code."""
    try:
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such file")
    except (OSError, ValueError) as error:  # a name that no file can have
        raise RecipeError(f"{path}: {error}") from None
    _check_format(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = PT2ArchiveReader(str(path))
        members = reader.get_file_names()
        problem = next(_problems(reader, members), None)
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            f"{path}: damaged: {_first_line(error)}", way_out=f"get the file again, or {_WAY_OUT}"
        ) from error
    if problem:
        raise RecipeError(f"{path}: refused, nothing was executed: {problem}", way_out=_WAY_OUT)


def _check_format(path: Path) -> None:
    """Raise RecipeError that says what a file is if it is no ``torch.export`` archive."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head[:2] != b"PK":
            what = "a pickle" if head[:1] == b"\x80" else "an empty file" if not head else "not a .pt2 archive"
            raise RecipeError(f"{path}: this is {what}, and pickles are never executed", way_out=_WAY_OUT)
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            if broken := archive.testzip():  # torch takes weights without looking at their checksums
                raise zipfile.BadZipFile(f"the checksum of {broken} is wrong")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    except Exception as error:  # zipfile has many for bytes that are no zip: UnicodeDecodeError, NotImplementedError …
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(
            f"{path}: truncated or damaged: {error}", way_out=f"get the file again, or {_WAY_OUT}"
        ) from error
    if "archive_format" in names:
        return
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        what = "a TorchScript archive, which holds code\n  load the model in Python, capture it"
    elif "data.pkl" in names:
        what = "a pickle (from torch.save)\n  load the weights into the model in Python, capture it"
    elif "serialized_exported_program.json" in names:
        what = "an export of an older torch\n  load it with that torch"
    else:
        what = "a zip, but not a torch.export archive\n  capture the model"
    raise RecipeError(f"{path}: this is {what}, and {_WAY_OUT}")


def _problems(reader: PT2ArchiveReader, members: list[str]) -> Iterator[str]:
    allowed = ("data/weights/", "data/constants/", "data/sample_inputs/", "models/", "extra/")
    loose = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id", "version")
    for member in members:
        if not member.startswith(allowed) and member not in loose:
            yield f"it holds {member!r}, which is not part of an exported graph" + (
                " (machine code of AOTInductor)" if member.startswith("data/aotinductor/") else ""
            )
    if [m for m in members if m.startswith("models/")] != ["models/model.json"]:
        yield "it holds no model, or several; one exported program was expected"
    for kind, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        if f"data/{kind}/model.pt" in members:
            yield f"its {kind} are a pickle"
        config = json.loads(reader.read_string(f"data/{kind}/model_{kind}_config.json"))["config"]
        for name, payload in config.items():
            if payload.get("use_pickle") or not str(payload["path_name"]).startswith(prefix):
                yield f"{kind[:-1]} {name!r} is a pickled object, not a plain tensor"
    yield from _check_inputs(reader.read_bytes("data/sample_inputs/model.pt"))
    yield from _check_model(json.loads(reader.read_string("models/model.json")))


def _check_inputs(data: bytes) -> Iterator[str]:
    try:
        torch.load(io.BytesIO(data), weights_only=True) if data else None
    except Exception as error:
        yield f"its example inputs are more than tensors and plain values: {_first_line(error)}"


def _check_model(model: dict[str, Any]) -> Iterator[str]:
    module = model["graph_module"]
    for symbol in model["range_constraints"]:
        yield from _check_text("symbol", symbol, _SYMBOL)
    yield from _check_graph(module["graph"])
    yield from _check_graph(module["signature"])
    for entry in module["module_call_graph"]:
        yield from _check_text("module", entry["fqn"], _PATH)
        signature = entry["signature"] or {}
        for name in signature.get("forward_arg_names") or ():
            yield from _check_text("argument", name, _NAME)
        for which in ("in_spec", "out_spec"):
            yield from _check_spec(signature.get(which) or "null", keywords=which == "in_spec")


def _check_graph(part: Any) -> Iterator[str]:
    """Walk through a graph or signature; ``as_string`` values and metadata reach no interpreter."""
    if isinstance(part, str):
        yield from _check_text("name", part, _NAME)
    if isinstance(part, list):
        for item in part:
            yield from _check_graph(item)
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if key in ("metadata", "as_string", "as_strings"):
            continue
        if key in ("as_float", "as_floats", "as_float_lists"):
            yield from _check_floats(value)
        elif key in ("target", "as_operator"):
            yield from _check_text("operator", value, _OPERATOR)
        elif key == "expr_str":
            yield from _check_expression(value)
        elif key.endswith("_name") or key == "class_fqn":
            yield from _check_text("weight", value, _PATH)
        elif key == "name":
            yield from _check_text("name", value, _NAME)
        else:
            if key.endswith("_values") and isinstance(value, dict):
                for name in value:
                    yield from _check_text("name", name, _NAME)
            yield from _check_graph(value)


def _check_floats(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _check_floats(item)
    elif not isinstance(value, (int, float)) and value not in _NO_NUMBER:
        yield f"{value!r:.80} is no number"


def _check_text(what: str, value: Any, form: re.Pattern[str]) -> Iterator[str]:
    if value is not None and value != "" and not (isinstance(value, str) and form.fullmatch(value)):
        yield f"{value!r:.80} is no {what}"


def _check_expression(value: Any) -> Iterator[str]:
    """An arithmetic expression over symbols, numbers and :data:`_FUNCTION`; no attribute, string or subscript.

    And no number in it may be astronomical: sympy evaluates ``9**9**9**9`` for ever.
    """
    place, text = 0, _FLOAT_CALL.sub(r"\1", _SYMBOL_CALL.sub(r"\1", str(value))).strip()
    if len(text) > _LONGEST:
        yield f"a symbolic size of {len(text)} characters"
        return
    while place < len(text):
        token = _TOKEN.match(text, place)
        word = token and token[1]
        if token is None or (word and not _FUNCTION.fullmatch(word) and not _SYMBOL.fullmatch(word)):
            yield f"{value!r:.80} is no symbolic size"
            return
        place = token.end()
    try:
        bits = size_bits(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        yield f"{value!r:.80} is no symbolic size"
        return
    if bits > _MOST_BITS:
        yield f"{value!r:.80} is too large for a size"


def _check_spec(text: str, *, keywords: bool) -> Iterator[str]:
    """A tree structure may not name modules to import; the keywords of a call are written into source."""
    if "__enum__" in text or "default_factory" in text:
        yield "the structure of its inputs or outputs names Python modules to import (an enum or a defaultdict)"
        return
    spec = json.loads(text)
    for name in _classes(spec[1] if spec else None):
        if name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
            yield f"its inputs or outputs hold a {name!r:.80}, a class that is not registered; import its module first"
    children = spec[1]["children_spec"] if spec else []
    if keywords and len(children) == 2 and children[1]["type"] == "builtins.dict":
        for name in json.loads(children[1]["context"]):
            yield from _check_text("keyword", name, _NAME)


def _classes(spec: dict[str, Any] | None) -> Iterator[str]:
    if spec and spec["type"] is not None:
        yield spec["type"]
        for child in spec["children_spec"]:
            yield from _classes(child)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
