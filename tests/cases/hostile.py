"""Files that somebody made to do harm, or that were damaged, and the command that reads each.

A case *holds* where the command ends by itself with a documented exit code and a message, shows no trace, and leaves no
file but those of a build that went well. :func:`cases` makes them in a folder; ``tests/bench/hostile.py`` counts them, on
any version of fxopt.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CANARY = "owned"
"""A file that appears in the current folder where something of a hostile file was executed."""
_TOUCH = f"touch {CANARY}"


@dataclass(frozen=True)
class Case:
    """``fxopt WORDS`` in the folder of the cases; ``must_fail`` where an exit code of 0 does not hold."""

    group: str
    name: str
    words: tuple[str, ...]
    must_fail: bool = True

    def problem(self, code: int, errors: str) -> str | None:
        """Why it does not hold, of the exit code and standard error; None where it holds."""
        if code not in ((1, 2, 3, 4) if self.must_fail else (0, 1, 2, 3, 4)):
            return f"exit code {code}"
        if "Traceback" in errors or "mistake in fxopt" in errors:
            return "a trace"
        if len(errors) > 50_000:
            return f"a message of {len(errors)} characters"
        return "something of it was executed" if Path(CANARY).exists() else None


def prepare(folder: Path) -> None:
    """An artifact ``good`` (onnx), and ``net.pt2``, which cases are made of.

    They are made in a fork, so that no native thread is started here, which a fork of :func:`run` would wait for.
    """
    import torch
    from torch.export import export, pt2_archive  # noqa: F401 - once here, not in each fork

    import fxopt.driver.build
    import fxopt.testing  # noqa: F401
    from fxopt import registry

    torch.set_num_threads(1)
    for name in registry.names("pass"):
        registry.get("pass", name)
    with contextlib.redirect_stderr(None):  # what a command imports and works out is there for each fork then
        _run_in_this_process("bench", "no such folder")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _prepare(folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def _prepare(folder: Path) -> None:
    import torch

    import fxopt
    from fxopt.backend import find_backend
    from fxopt.driver.lower import lower
    from fxopt.target import host

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 4))
    program = fxopt.capture(net, (torch.randn(2, 3, 8, 8),))
    fxopt.save_program(program, folder / "net.pt2")
    (folder / "good").mkdir()
    lower(program, find_backend("onnx"), host(), folder / "good")
    (folder / "good" / "report.json").write_text("{}")


def cases(folder: Path) -> Iterator[Case]:
    """Make every case below ``folder``, which :func:`prepare` filled."""
    for make in (_manifests, _folders, _recipes, _strings, _calibrations, _programs, _targets, _outs):
        yield from make(folder)


def run(case: Case, seconds: float = 60.0) -> str | None:
    """Run a case in a fork of this process, in the current folder; why it does not hold, None where it does."""
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            _become(case.words, errors.fileno())
        code = _wait(child, seconds)
        errors.seek(0)
        told = errors.read().decode(errors="replace")
    problem = f"not done in {seconds:g} s" if code is None else case.problem(code, told)
    Path(CANARY).unlink(missing_ok=True)
    return problem


def _become(words: tuple[str, ...], errors: int) -> None:
    """In the fork: the command line, which ends the process."""
    code = 99
    try:
        os.setpgid(0, 0)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        code = _run_in_this_process(*words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run_in_this_process(*words: str) -> int:
    """``fxopt WORDS``; its exit code."""
    from fxopt.cli.main import main

    sys.argv = ["fxopt", *words]
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return 0


def _wait(child: int, seconds: float) -> int | None:
    """The exit code of a fork, negative for a signal; None, and it is ended, where it takes longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


# ---- artifacts -----------------------------------------------------------------------------------------------------

_NOT = {
    "null": None,
    "number": 3,
    "negative": -1,
    "huge number": 10**30,
    "text": "x",
    "megabyte": "x" * 1_000_000,
    "list": [],
    "dict": {},
    "list of lists": [[[]]],
    "true": True,
    "fraction": 1e308,
}


def _deep(depth: int = 100_000) -> str:
    return "[" * depth + "]" * depth


def _manifest_values(good: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    places = [(key,) for key in good] + [
        ("inputs", 0),
        ("inputs", 0, "name"),
        ("inputs", 0, "shape"),
        ("inputs", 0, "shape", 0),
        ("inputs", 0, "dtype"),
        ("inputs", 0, "example"),
        ("outputs", 0),
        ("outputs", 0, "example"),
        ("dims", "batch"),
        ("target", "triple"),
        ("target", "features"),
        ("target", "cores"),
        ("files", "model.onnx"),
        ("in_tree", 0),
        ("in_tree", 1),
        ("facts", "overflows_in_16_bits"),
        ("facts", "float16"),
    ]
    optional = {"recipe", "history", "versions", "facts", "schema_version", "choice", "measured", "splits"}
    for place in places:
        for name, value in _NOT.items():
            changed = copy.deepcopy(good)
            at: Any = changed
            try:
                for key in place[:-1]:
                    at = at[key]
                at[place[-1]] = value
            except (KeyError, IndexError, TypeError):
                continue
            yield f"{'.'.join(map(str, place))} is {name}", changed, False
        if len(place) == 1:
            yield f"without {place[0]}", {k: v for k, v in good.items() if k != place[0]}, place[0] not in optional
    for name in ("../../outside.txt", "/etc/hostname", "a/../../outside.txt", "..", ".", "", "a\0b", "c:\\x", "..\\x"):
        yield f"a file called {name!r}", good | {"files": good["files"] | {name: "0" * 64}}, True
    yield "no files", good | {"files": {}}, True
    yield "a later schema", good | {"schema_version": 99}, True
    yield "a backend that runs code", good | {"backend": f"onnx(threads=__import__('os').system({_TOUCH!r}))"}, True
    yield "a backend that is a command", good | {"backend": f"os:system({_TOUCH!r})"}, True
    yield "an input twice in the tree", good | {"in_tree": ["tuple", [["tuple", [0, 0, 0]], ["dict", {}]]]}, False
    yield "a tree without its input", good | {"in_tree": ["tuple", [["tuple", []], ["dict", {}]]]}, True
    yield "a leaf that is not there", good | {"out_tree": 7}, True
    for word in (f"x; {_TOUCH};", f"$({_TOUCH})", f"`{_TOUCH}`", "x\nrm", "\x1b[2J"):
        renamed = copy.deepcopy(good)
        renamed["inputs"][0]["name"] = word
        yield f"an input called {word!r}", renamed, False


def _manifests(folder: Path) -> Iterator[Case]:
    good = json.loads((folder / "good" / "manifest.json").read_text())
    (folder / "outside.txt").write_text("a secret of the user's")
    texts: list[tuple[str, bytes, bool]] = [
        (name, json.dumps(values).encode(), must) for name, values, must in _manifest_values(good)
    ]
    text = json.dumps(good).encode()
    texts += [
        ("empty", b"", True),
        ("a list", b"[]", True),
        ("deep", _deep().encode(), True),
        ("UTF-16", text.decode().encode("utf-16"), False),
        ("NUL", text[:50] + b"\0" + text[50:], True),
        ("cut", text[:-20], True),
        ("5000 digits", b'{"files": ' + b"9" * 5000 + b"}", True),
        ("deep inside", text[:-1] + b', "more": ' + _deep().encode() + b"}", True),
        ("not UTF-8", b'{"a": "\xff\xfe"}', True),
        ("twice", text[:-1] + b', "files": {}}', True),
    ]
    for i, (name, data, must) in enumerate(texts):
        made = _copy(folder, f"m{i}")
        (made / "manifest.json").write_bytes(data)
        yield Case("manifest", name, ("bench", made.name, "--blocks", "1"), must)
        if "file" in name or "input called" in name:
            yield Case("manifest", f"bundle: {name}", ("bundle", made.name, "-o", f"{made.name}.tar.gz"), must)


def _copy(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    for file in (folder / "good").iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    return made


def _folders(folder: Path) -> Iterator[Case]:
    def link(to: str) -> Callable[[Path], None]:
        def change(made: Path) -> None:
            (made / "model.onnx").unlink()
            (made / "model.onnx").symlink_to(to)

        return change

    changes: dict[str, Callable[[Path], Any]] = {
        "a file that is a link": link("../good/model.onnx"),
        "a link that is not listed": lambda made: (made / "more").symlink_to("/etc"),
        "a link to itself": link("model.onnx"),
        "a file that is not listed": lambda made: (made / "model.so").write_bytes(b"\x7fELF"),
        "a file in a folder that is not listed": lambda made: ((made / "a").mkdir(), (made / "a" / "b").write_text("")),
        "a pipe": lambda made: os.mkfifo(made / "pipe"),
        "a manifest that is a pipe": lambda made: (
            (made / "manifest.json").unlink(),
            os.mkfifo(made / "manifest.json"),
        ),
        "a manifest that is a link": lambda made: (
            (made / "manifest.json").unlink(),
            (made / "manifest.json").symlink_to("/dev/zero"),
        ),
        "a manifest that is a folder": lambda made: (
            (made / "manifest.json").unlink(),
            (made / "manifest.json").mkdir(),
        ),
    }
    for i, (name, change) in enumerate(changes.items()):
        made = _copy(folder, f"f{i}")
        change(made)
        yield Case("folder", name, ("bench", made.name, "--blocks", "1"))


# ---- recipes and text ----------------------------------------------------------------------------------------------

_BUILD = ("-b", "eager", "--no-measure")


def _recipes(folder: Path) -> Iterator[Case]:
    net = 'model = "net.pt2"\nbackend = "eager"\n'
    texts: dict[str, bytes | str] = {
        "a shell command": f"model = \"subprocess:getoutput(cmd='{_TOUCH}')\"",
        "a function of the system": f"model = \"os:system(command='{_TOUCH}')\"",
        "a function without arguments": 'model = "os:abort"',
        "an exit": 'model = "sys:exit"',
        "a class": 'model = "subprocess:Popen"',
        "a module that runs": 'model = "this:s"',
        "a criterion of the system": net + "passes = [\"prune_channels(ratio=0.5, by='os:abort')\"]",
        "a quantizer of the system": net + "passes = [\"quantize(quantizer='os:abort')\"]",
        "5000 digits": net + "[budget]\nmacs = " + "9" * 5000,
        "30 digits": net + "[budget]\nmacs = " + "9" * 30,
        "not a number": net + "[budget]\nlatency_ms = nan",
        "infinite": net + "[budget]\nmetric_drop = -inf",
        "deep": "model = " + _deep(10_000),
        "deep tables": "[" + ".".join(["a"] * 5000) + "]\n",
        "NUL": b'model = "a\0b"',
        "NUL in a name": net + 'target = "a\\u0000b.toml"',
        "NUL in a model": 'model = "a\\u0000b.pt2"',
        "NUL in a calibration": net + 'calibration = "a\\u0000b.npy"',
        "not UTF-8": b'model = "\xff\xfe"',
        "UTF-16": 'model = "net.pt2"'.encode("utf-16"),
        "a megabyte of text": f'model = "{"x" * 1_000_000}"',
        "a megabyte of a key": f"{'x' * 1_000_000} = 1",
        "a megabyte of a pass": net + f'passes = ["{"x" * 1_000_000}"]',
        "a megabyte of an option": net + f"passes = [\"quantize(scheme='{'x' * 1_000_000}')\"]",
        "a thousand unknown passes": net + f"passes = {['none'] * 1000}",
        "empty": "",
        "a list": "[[model]]",
        "escapes": 'model = "\\u001b[2J\\u001b]0;x\\u0007"',
        "a name too long": f'model = "{"d/" * 3000}x.pt2"',
        "a folder": 'model = "."',
        "a device": 'model = "/dev/zero.pt2"',
        "dates": "model = 1979-05-27T07:32:00Z",
        "a table as model": "[model]\na = 1",
        "numbers as passes": 'model = "digits"\npasses = [1, 2]',
    }
    for i, (name, text) in enumerate(texts.items()):
        (folder / f"r{i}.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        yield Case("recipe", name, ("build", f"r{i}.toml", "-o", "out", "--no-measure"), name != "30 digits")


def _strings(folder: Path) -> Iterator[Case]:
    texts = {
        "deep": "(" * 300 + ")" * 300,
        "deeper": "clean_up(" * 5000,
        "a call": f"__import__('os').system({_TOUCH!r})",
        "an option that is code": f"quantize(images=__import__('os').system({_TOUCH!r}))",
        "a star": "quantize(**{})",
        "a lambda": "(lambda: 1)()",
        "a string": "'quantize'",
        "a power": "quantize(images=9**9**9**9)",
        "digits": "quantize(images=" + "9" * 5000 + ")",
        "a walrus": "(a := clean_up)",
        "a comment": "clean_up # x",
        "open": "quantize(",
        "a list": "[clean_up]",
        "new lines": "clean_up\n\n,",
        "a format": "f'{clean_up}'",
        "nothing": ",",
        "unicode": "ｃlean_up",
        "surrogates": "\udcff",
        "megabyte": "a" * 100_000,
        "negative": "quantize(images=-1)",
        "not a number": "prune_channels(ratio=1e400)",
        "a set": "quantize(keep_float={1})",
        "bytes": "quantize(scheme=b'')",
        "complex": "quantize(images=1j)",
        "ellipsis": "quantize(images=...)",
        "many commas": "clean_up," * 3000 + "none",
    }
    for name, text in texts.items():
        fails = name not in ("a comment", "new lines", "unicode")  # Python reads wide letters as the usual ones
        yield Case("pass string", name, ("build", "net.pt2", "-p", text, "-o", "out", *_BUILD), fails)
    for name, text in {
        k: v for k, v in texts.items() if k in ("deep", "a call", "digits", "megabyte", "unicode")
    }.items():
        yield Case("pass string", f"backend: {name}", ("build", "net.pt2", "-b", f"onnx({text}", "-o", "out"))
        yield Case("pass string", f"model: {name}", ("build", f"digits({text}", "-o", "out", *_BUILD))


# ---- binary files --------------------------------------------------------------------------------------------------


def _npy(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header + data


def _calibrations(folder: Path) -> Iterator[Case]:
    good = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    whole, packed = io.BytesIO(), io.BytesIO()
    np.save(whole, good)
    np.savez_compressed(packed, good)
    broken = bytearray(packed.getvalue())
    broken[len(broken) // 2] ^= 0xFF
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a.npy", b"\0" * 50_000_000)
    objects = io.BytesIO()
    np.save(objects, np.array([print], dtype=object), allow_pickle=True)
    big = io.BytesIO()
    np.save(big, good.astype(">f4"))
    text = np.lib.format.header_data_from_array_1_0(good)
    huge = repr(text | {"shape": (2**40, 3, 8, 8)}).encode()
    files = {
        "a huge header.npy": _npy(b" " * 60_000 + b"\n"),
        "a header of 1 GB.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**30) + b"{",
        "a huge shape.npy": _npy(huge),
        "a negative shape.npy": _npy(repr(text | {"shape": (-1, 3)}).encode()),
        "a header that is code.npy": _npy(f"__import__('os').system({_TOUCH!r})".encode()),
        "a header of another kind.npy": _npy(b"[1, 2]"),
        "big endian.npy": big.getvalue(),
        "cut.npy": whole.getvalue()[:1000],
        "objects.npy": objects.getvalue(),
        "empty.npy": b"",
        "text.npy": b"1,2,3\n",
        "a broken zip.npz": bytes(broken),
        "a cut zip.npz": packed.getvalue()[:-40],
        "a zip of zeros.npz": bomb.getvalue(),
        "an empty zip.npz": b"PK\x05\x06" + b"\0" * 18,
        "a pickle.npy": b"\x80\x04\x95" + b"\0" * 40,
    }
    arrays = {
        "nan.npy": np.full_like(good, np.nan),
        "infinite.npy": np.full_like(good, np.inf),
        "no examples.npy": good[:0],
        "a scalar.npy": good[0, 0, 0, 0],
        "another shape.npy": good[..., :5],
        "another dtype.npy": good.astype(np.float64),
        "complex.npy": good.astype(np.complex64),
        "text array.npy": np.array(["a", "b"]),
        "a structure.npy": np.zeros(4, [("a", "f4")]),
        "times.npy": np.zeros(4, "datetime64[s]"),
    }
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[name] = buffer.getvalue()
    for i, (name, data) in enumerate(files.items()):
        file = folder / f"c{i}{Path(name).suffix}"
        file.write_bytes(data)
        yield Case(
            "calibration",
            name,
            ("build", "net.pt2", "-p", "quantize", "--calibrate", file.name, "-o", "out", *_BUILD),
            name != "big endian.npy",
        )


def _programs(folder: Path) -> Iterator[Case]:
    whole = (folder / "net.pt2").read_bytes()
    draw = random.Random(0)
    for i in range(12):
        data = bytearray(whole)
        for _ in range(1 + i % 3):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / f"flip{i}.pt2").write_bytes(data)
        yield Case("program", f"bits flipped, {i}", ("build", f"flip{i}.pt2", "-o", "out", *_BUILD), must_fail=False)
    for i, part in enumerate((0, 10, 1000, len(whole) // 2, len(whole) - 10)):
        (folder / f"cut{i}.pt2").write_bytes(whole[:part])
        yield Case("program", f"cut at {part}", ("build", f"cut{i}.pt2", "-o", "out", *_BUILD))
    with zipfile.ZipFile(folder / "net.pt2") as zipped:
        members = {info.filename: zipped.read(info) for info in zipped.infolist()}
    name = next(member for member in members if member.endswith("models/model.json"))
    text = members[name].decode()
    sizes = {
        "a power of powers": "9**9**9**9",
        "a call of powers": "Pow(9, Pow(9, Pow(9, 9)))",
        "shifts": "LShift(1, LShift(1, 999))",
        "deep": "(" * 5000 + "1" + ")" * 5000,
        "digits": "9" * 100_000,
        "code": f"__import__('os').system({_TOUCH!r})",
        "floor of a power": "floor(9.0**999999999)",
        "a product of powers": "*".join(["9**9**7"] * 50),
    }
    changes = {f"a size that is {k}": _with_size(text, v) for k, v in sizes.items()}
    changes |= {
        "no JSON": "{",
        "a list": "[]",
        "deep JSON": _deep(),
        "NaN": "NaN",
        "no graph": "{}",
        "an op that is not there": text.replace("aten.relu", "aten.rleu"),
        "an op of the system": text.replace("torch.ops.aten.relu.default", "os.system"),
        "a wrong version": text.replace('"major":', '"majr":'),
        "a huge shape": text.replace('"as_int": 8', f'"as_int": {2**62}'),
        "a negative shape": text.replace('"as_int": 8', '"as_int": -8'),
    }
    for i, (kind, changed) in enumerate(changes.items()):
        with zipfile.ZipFile(folder / f"p{i}.pt2", "w", zipfile.ZIP_STORED) as zipped:
            for member, data in members.items():
                zipped.writestr(member, changed.encode() if member == name else data)
        yield Case("program", kind, ("build", f"p{i}.pt2", "-o", "out", *_BUILD), must_fail=changed != text)


def _with_size(text: str, size: str) -> str:
    """The text of a model with its first symbolic size replaced everywhere."""
    model = json.loads(text)
    found: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if "expr_str" in part:
                found.append(part["expr_str"])
                part["expr_str"] = size
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(model)
    assert found
    return json.dumps(model)


def _targets(folder: Path) -> Iterator[Case]:
    texts: dict[str, str] = {
        "a name that leaves": 'name = "../../x"\ntriple = "x86_64-linux-gnu"',
        "an absolute name": 'name = "/tmp/x"\ntriple = "x86_64-linux-gnu"',
        "a triple that is a path": 'triple = "../../bin/evil-linux-gnu"',
        "a triple that is a command": f'triple = "x;{_TOUCH};-linux-gnu"',
        "no triple": 'name = "x"',
        "cores in words": 'triple = "a-b"\ncores = "many"',
        "no cores": 'triple = "a-b"\ncores = 0',
        "5000 digits": 'triple = "a-b"\nmemory = ' + "9" * 5000,
        "30 digits": 'triple = "a-b"\nmemory = ' + "9" * 30,
        "deep": "name = " + _deep(10_000),
        "NUL": 'triple = "a\\u0000-b"',
        "a megabyte": f'triple = "{"x" * 1_000_000}"',
        "a feature that is none": 'triple = "a-b"\nfeatures = ["avx9"]',
        "an address that is none": 'triple = "x86_64-linux-gnu"\naddress = "file:///etc/passwd"',
        "a port that is none": 'triple = "x86_64-linux-gnu"\naddress = "rpc://127.0.0.1:99999"',
        "escapes": 'name = "\\u001b[2J"\ntriple = "a-b"',
    }
    for i, (name, text) in enumerate(texts.items()):
        (folder / f"t{i}.toml").write_text(text)
        yield Case("target", name, ("build", "net.pt2", "-t", f"t{i}.toml", "-o", "out", *_BUILD))


def _outs(folder: Path) -> Iterator[Case]:
    (folder / "dangling").symlink_to(folder / "nowhere" / "deep")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "file").write_text("")
    outs = {
        "300 characters": "x" * 300,
        "255 characters": "x" * 255,
        "a long path": "d/" * 3000 + "x",
        "the root": "/",
        "the current folder": ".",
        "the folder above": "..",
        "empty": "",
        "a loop of links": "loop",
        "below a file": "file/x",
        "a device": "/dev/null",
        "below a device": "/dev/null/x",
        "the system's": "/proc/x",
        "spaces": "   ",
        "surrogates": "out\udcff",
        "escapes": "out\x1b[2J",
    }
    for name, out in outs.items():
        yield Case(
            "output", name, ("build", "net.pt2", "-o", out, *_BUILD), name not in ("spaces", "surrogates", "escapes")
        )
