"""Whatever bytes or text a reader is given, it answers with what they hold or with an error of fxopt's own."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fxopt
from fxopt.backend import find_backend
from fxopt.backends.remote.greeting import LONGEST, Greeting, NotOurs
from fxopt.backends.tvm.machine.processor import processor_of
from fxopt.backends.tvm.tuning.database import Database
from fxopt.driver.lower import lower
from fxopt.driver.recipe import Recipe, make_recipe, read_recipe
from fxopt.errors import FxoptError, UsageError, shown
from fxopt.frontend.pt2_safety import check_archive
from fxopt.frontend.pt2_sizes import size_bits
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.runtime.read_manifest import read_manifest
from fxopt.support.spec import format_call, parse_call, parse_calls
from fxopt.target import Target, host
from fxopt.workload.recorded import read_arrays

_MANY, _SOME = settings(max_examples=60), settings(max_examples=30)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an artifact, ``a``, and a program, ``net.pt2``."""
    folder = tmp_path_factory.mktemp("fuzz")
    program = fxopt.capture(torch.nn.Linear(4, 2), (torch.randn(2, 4),))
    fxopt.save_program(program, folder / "net.pt2")
    (folder / "a").mkdir()
    lower(program, find_backend("eager"), host(), folder / "a")
    return folder


@st.composite
def changed(draw: st.DrawFn, good: Any) -> Any:
    """A JSON value with one to three of its parts replaced by anything, or gone."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        at, key = None, None
        inside = value
        while isinstance(inside, (dict, list)) and inside and (at is None or draw(st.booleans())):
            at, key = inside, draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
            inside = at[key]
        if at is None:
            return draw(JSON)
        if draw(st.booleans()):
            at[key] = draw(JSON)
        else:
            del at[key]
    return value


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes with some changed, taken out or put in."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at, count = draw(st.integers(0, len(data))), draw(st.integers(0, 30))
        data[at : at + draw(st.sampled_from((0, count)))] = draw(st.binary(max_size=count))
    return bytes(data)


PIPELINES = (
    "fold_batch_norm, quantize(scheme='int8', keep_float=('a', 'b'))",
    "prune_channels(ratio=0.5, by='l1'), clean_up",
)


@_MANY
@given(
    st.text(max_size=60)
    | st.sampled_from(PIPELINES).flatmap(lambda s: damaged(s.encode())).map(lambda b: b.decode(errors="replace"))
)
def test_a_pipeline_is_read_or_refused(text):
    try:
        calls = parse_calls(text)
    except UsageError:
        return
    for name, options in calls:
        assert parse_call(format_call(name, options), "pass")[0] == name
    try:
        passes = Pipeline.parse(text)
    except FxoptError:
        return
    assert Pipeline.parse(str(passes)) == passes


@_MANY
@given(data=st.data())
def test_a_recipe_is_read_or_refused(data, tmp_path_factory):
    good = b'model = "digits"\npasses = ["quantize"]\n[budget]\nlatency_ms = 2.5\nmacs = 1000\n'
    file = tmp_path_factory.getbasetemp() / "fuzz.toml"
    file.write_bytes(data.draw(damaged(good)))
    with contextlib.suppress(UsageError):
        assert isinstance(read_recipe(file), Recipe)
    values = data.draw(changed({"model": "digits", "passes": ["quantize"], "budget": {"macs": 1, "metric_drop": 0.1}}))
    try:
        made = make_recipe(values) if isinstance(values, dict) else None
        assert made is None or make_recipe(made.to_dict()) == made
    except UsageError:
        pass


@_SOME
@given(data=st.data())
def test_a_manifest_is_read_or_refused(data, place):
    good = place / "a" / "manifest.json"
    text = (place / "manifest").read_bytes() if (place / "manifest").exists() else good.read_bytes()
    (place / "manifest").write_bytes(text)
    value = data.draw(changed(json.loads(text)))
    good.write_bytes(data.draw(st.just(json.dumps(value).encode()) | damaged(text)))
    try:
        manifest = read_manifest(place / "a")
        assert all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in manifest.files)
    except FxoptError:
        pass
    finally:
        good.write_bytes(text)


@_SOME
@given(data=st.data())
def test_a_target_is_read_or_refused(data):
    value = data.draw(changed(host().to_dict()))
    try:
        target = Target.of(value) if isinstance(value, dict) else host()
        assert "/" not in target.name
    except UsageError:
        pass


@_MANY
@given(data=st.data(), packed=st.booleans())
def test_calibration_arrays_are_read_or_refused(data, packed, tmp_path_factory):
    buffer, array = io.BytesIO(), np.arange(24, dtype=np.float32).reshape(4, 6)
    np.savez(buffer, x=array) if packed else np.save(buffer, array)
    file = tmp_path_factory.getbasetemp() / f"fuzz.np{'z' if packed else 'y'}"
    file.write_bytes(data.draw(damaged(buffer.getvalue())))
    try:
        for found in read_arrays(file).values():
            torch.from_numpy(found)
    except FxoptError:
        pass


@_SOME
@given(data=st.data())
def test_an_archive_is_let_through_or_refused(data, place):
    file = place / "fuzz.pt2"
    with zipfile.ZipFile(place / "net.pt2") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = (member for member in members if member.endswith("models/model.json"))
    if data.draw(st.booleans()):
        file.write_bytes(data.draw(damaged((place / "net.pt2").read_bytes())))
    else:
        members[name] = json.dumps(data.draw(changed(json.loads(members[name])))).encode()
        with zipfile.ZipFile(file, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    with contextlib.suppress(FxoptError):
        check_archive(file)


@_MANY
@given(
    st.lists(
        st.sampled_from(["9", "s0", "2.5", "**", "*", "+", "//", "(", ")", "Pow(", "LShift(", ",", "-", "Integer("]),
        max_size=9,
    )
)
def test_a_size_is_never_larger_than_it_is_said_to_be(words):
    import ast

    text = " ".join(words)
    try:
        bits = size_bits(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, OverflowError):
        return
    if bits > 4096:
        return
    names = {"s0": 2**63, "Pow": lambda a, b: a**b, "LShift": lambda a, b: int(a) << int(b), "Integer": lambda a: a}
    try:
        value = eval(text, names)  # of the words above alone
    except (ZeroDivisionError, OverflowError, TypeError, ValueError):
        return
    if isinstance(value, (int, float)):
        assert abs(int(value)).bit_length() <= bits + 1


_TRIAL = {
    "task": "conv", "on": "", "tvm": "", "schedules": 1, "tile": {"rows": 4, "vectors": 2, "unroll": 4}, "seed": 0,
    "seconds": 1e-3, "won": True, "rival": {"rows": 1, "vectors": 1, "unroll": 1}, "rival_seconds": 2e-3,
}  # fmt: skip


@_MANY
@given(data=st.data())
def test_lines_of_a_tuning_database_are_used_or_counted(data, tmp_path_factory):
    file, processor = tmp_path_factory.getbasetemp() / "fuzz.jsonl", processor_of(host())
    file.unlink(missing_ok=True)
    stamp = Database(file, processor, 1).stamp
    good = _TRIAL | stamp
    lines = [
        json.dumps(data.draw(changed(good))).encode(),
        data.draw(damaged(json.dumps(good).encode())).replace(b"\n", b" "),
    ]
    file.write_bytes(b"\n".join(lines) + b"\n")
    found = Database(file, processor, 1)
    for tile in found.tiles().values():
        assert tile.rows * tile.vectors * tile.unroll > 0, "nothing divides by zero at the next build"
    append = found["conv"].trials
    assert all(trial.seconds is None or trial.seconds > 0 for trial in append)


@_MANY
@given(st.lists(st.binary(max_size=40), max_size=30))
def test_a_greeting_is_read_or_refused(parts):
    greeting, taken = Greeting(), 0
    for part in parts:
        taken += len(part)
        try:
            key = greeting.feed(part)
        except NotOurs:
            return
        if key is not None:
            assert len(key) == taken - 8
            return
    assert taken < LONGEST + 8


@_MANY
@given(st.text(max_size=50), st.integers(0, 3000))
def test_what_is_shown_is_short_and_leaves_the_terminal_alone(text, times):
    said = str(FxoptError(text * times, way_out=text))
    assert len(said) < 60 * 1000 * 12
    assert all(c.isprintable() or c in "\n\t" for c in said)
    assert all(len(line) < 1100 * 10 for line in said.split("\n"))
    plain = "a line\nand another"
    assert shown(plain) == plain
