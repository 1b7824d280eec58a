"""Artifacts of anybody's: what is refused before it is used, and who signed it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import hostile

import fxopt
from fxopt.backend import Manifest, find_backend
from fxopt.backends.eager import Eager
from fxopt.bundle.readme import device_readme
from fxopt.driver.lower import lower
from fxopt.errors import BackendError, UsageError
from fxopt.runtime.read_manifest import read_manifest
from fxopt.runtime.signing import make_key, sign, verify
from fxopt.target import host

COUNT = Path(__file__).parents[1] / "bench" / "hostile.py"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "net"
    folder.mkdir()
    lower(fxopt.capture(torch.nn.Linear(4, 2), (torch.randn(2, 4),)), find_backend("eager"), host(), folder)
    return folder


@pytest.fixture
def mine(built, tmp_path):
    return shutil.copytree(built, tmp_path / "net")


# ---- manifests and folders -----------------------------------------------------------------------------------------


def _edit(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(change(values)))


NAMES = ("../x", "a/../../x", "/etc/passwd", "..", ".", "", "a//b", "./a", "a/", "a\\b", "c:x", "a\0", "a\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_the_folder_or_is_no_name_is_refused(name, mine):
    _edit(mine, lambda values: values | {"files": values["files"] | {name: "0" * 64}})
    with pytest.raises(BackendError, match=r"files\."):
        read_manifest(mine)


CHANGES = {
    "a file that is not listed": (lambda f: (f / "model.so").write_text(""), "model.so is not listed"),
    "one in a folder": (lambda f: ((f / "a").mkdir(), (f / "a" / "b").write_text("")), "a/b is not listed"),
    "a link to a folder": (lambda f: (f / "a").symlink_to("/etc"), "a is a link"),
    "a link in place of a file": (
        lambda f: ((f / "model.pt2").rename(f.parent / "m"), (f / "model.pt2").symlink_to(f.parent / "m")),
        "model.pt2 is a link",
    ),
    "a manifest that is a link": (
        lambda f: ((f / "manifest.json").rename(f.parent / "m"), (f / "manifest.json").symlink_to(f.parent / "m")),
        "not a regular file",
    ),
    "an empty list of files": (
        lambda f: _edit(f, lambda values: values | {"files": {}}),
        "it lists no files",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_is_not_what_its_manifest_says_is_refused(change, mine):
    alter, words = CHANGES[change]
    alter(mine)
    with pytest.raises(BackendError, match=words):
        fxopt.load(mine)


def test_names_of_inputs_are_arguments_and_not_commands(built, tmp_path):
    manifest = read_manifest(built).to_dict()
    names = ["x; touch owned;", "$(touch owned)", "it's", "--out", "a b"]
    manifest["inputs"] = [manifest["inputs"][0] | {"name": name} for name in names]
    text = device_readme(tmp_path, Manifest.model_validate(manifest), host(), "a bundle; x")
    (line,) = (line for line in text.splitlines() if line.startswith("    bin/run") and "results" in line)
    assert shlex.split(line)[2:-2] == [f"./{n}.npy" if n.startswith("-") else f"{n}.npy" for n in names]
    (line,) = (line for line in text.splitlines() if line.startswith("    mkdir "))
    assert shlex.split(line)[:2] == ["mkdir", "a bundle; x"]
    with pytest.raises(ValueError, match="one line"):
        Manifest.model_validate(manifest | {"inputs": [manifest["inputs"][0] | {"name": "x\nrm -r /"}]})


def test_what_is_not_trusted_is_loaded_only_if_it_is_data(mine, registering):
    class Native(Eager):
        """A backend whose artifact is code, as any is that does not say otherwise."""

        name = "native"
        artifact_is_code = True

        def load(self, folder, manifest):
            raise AssertionError("loaded")

    assert fxopt.load(mine, trusted=False)(torch.zeros(2, 4)).shape == (2, 2)
    registering("backend", "native", Native)
    text = (mine / "manifest.json").read_text()
    (mine / "manifest.json").write_text(text.replace('"backend": "eager"', '"backend": "native"'))
    with pytest.raises(BackendError, match=r"not trusted(.|\n)*fxopt verify"):
        fxopt.load(mine, trusted=False)
    codes = {name: find_backend(name).artifact_is_code for name in ("eager", "onnx", "openvino", "tvm")}
    assert codes == {"eager": False, "onnx": False, "openvino": False, "tvm": True}


# ---- signatures ----------------------------------------------------------------------------------------------------

pytest.importorskip("minisign")


@pytest.mark.parametrize("password", ["", "a password"])
def test_a_signature_is_verified_until_anything_changes(password, mine, tmp_path):
    key, other = tmp_path / "key", tmp_path / "other"
    public, stranger = make_key(key, password), make_key(other, "")
    assert (key.stat().st_mode & 0o777, public.name) == (0o600, "key.pub")
    with pytest.raises(BackendError, match="is not signed"):
        verify(mine, public)
    sign(mine, key, lambda: password)
    assert "timestamp" in verify(mine, public)
    fxopt.load(mine)
    with pytest.raises(BackendError, match="does not have the signature"):
        verify(mine, stranger)
    text = (mine / "manifest.json").read_text()
    (mine / "manifest.json").write_text(text.replace("eager", "Eager"))
    with pytest.raises(BackendError, match="does not have the signature"):
        verify(mine, public)
    (mine / "manifest.json").write_text(text)
    (mine / "model.pt2").write_bytes((mine / "model.pt2").read_bytes() + b" ")
    with pytest.raises(BackendError, match="differs from what was built"):
        verify(mine, public)


def test_keys_that_cannot_be_used_say_so_and_are_never_replaced(mine, tmp_path):
    key = tmp_path / "key"
    make_key(key, "right")
    with pytest.raises(UsageError, match="never replaced"):
        make_key(key, "")
    with pytest.raises(UsageError, match="password"):
        sign(mine, key, lambda: "wrong")
    with pytest.raises(UsageError, match="not a public key"):
        verify(mine, key)
    with pytest.raises(UsageError, match="not a secret key"):
        sign(mine, tmp_path / "none", lambda: "")
    assert not (mine / "manifest.json.minisig").exists()


@pytest.mark.skipif(not shutil.which("minisign"), reason="the program minisign is not installed")
def test_minisign_itself_verifies_what_is_signed_here_and_the_other_way_round(mine, tmp_path):
    ours = make_key(tmp_path / "ours", "")
    sign(mine, tmp_path / "ours", lambda: "")
    manifest = str(mine / "manifest.json")
    subprocess.run(["minisign", "-Vm", manifest, "-p", ours], check=True, capture_output=True)
    theirs = [tmp_path / "theirs.pub", tmp_path / "theirs"]
    subprocess.run(["minisign", "-GW", "-p", theirs[0], "-s", theirs[1]], check=True, capture_output=True)
    subprocess.run(["minisign", "-Sm", manifest, "-s", theirs[1]], check=True, capture_output=True)
    verify(mine, theirs[0])
    with pytest.raises(BackendError):
        verify(mine, ours)


# ---- all of it -----------------------------------------------------------------------------------------------------


def _count(*options: str) -> str:
    done = subprocess.run([sys.executable, str(COUNT), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_some_hostile_files_of_every_kind_are_held_against():
    assert "manifest" in _count("--every", "140")


@pytest.mark.slow
def test_all_hostile_files_are_held_against():
    _count()


def test_a_case_that_does_not_hold_is_told_of():
    case = hostile.Case("recipe", "none", ())
    assert case.problem(2, "UsageError: no") is None
    assert case.problem(5, "") == "exit code 5"
    assert case.problem(-11, "") == "exit code -11"
    assert case.problem(0, "") == "exit code 0"
    assert case.problem(2, "Traceback (most recent call last)") == "a trace"
