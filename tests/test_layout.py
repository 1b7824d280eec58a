"""The house: its map is the tree, its layers hold, nothing goes in a circle, and the runtime's rooms do without torch."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import networkx
import pytest

import fxopt

ROOT = Path(__file__).parent.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LINKED = ("passes", "backends", "models")
ENTRIES = {path.stem for path in (ROOT / "fxopt").iterdir() if path.name.isidentifier() or path.suffix == ".py"} - {
    "__init__",
    "__main__",
    "__pycache__",
    *LINKED,
}
ROOMS = sorted(name for name in ENTRIES if (ROOT / "fxopt" / name).is_dir())
TORCH_FREE = ("runtime", "backend", "target", "support", "registry", "errors", "bundle")


@pytest.fixture(scope="module")
def graph():
    """Imports of every module, those in functions and for type checkers too."""
    return grimp.build_graph("fxopt", cache_dir=None)


def _sources(folder):
    return [path for path in (ROOT / folder).rglob("*.py") if not {"__pycache__", "build"} & set(path.parts)]


def test_top_level_names_are_the_agreed_ones():
    allowed = {"fxopt", "passes", "backends", "models", "tests", "docs", "build", "dist"}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".") and "egg-info" not in p.name}
    assert folders <= allowed


@pytest.mark.parametrize("name", LINKED)
def test_folders_beside_the_core_are_part_of_the_package_for_every_tool(name):
    assert (ROOT / "fxopt" / name).resolve() == ROOT / name


def test_the_map_of_the_rooms_is_the_tree():
    table = "\n".join(line for line in (fxopt.__doc__ or "").splitlines() if line.startswith("    "))
    named = {name.strip() for line in table.splitlines() for name in re.split(r"\s{2,}", line.strip())[0].split(",")}
    assert named == ENTRIES


def test_every_room_is_in_a_layer():
    layers = next(contract["layers"] for contract in CONTRACTS if contract["name"].startswith("Rooms"))
    assert {name.strip() for layer in layers for name in layer.split("|")} == {f"fxopt.{name}" for name in ENTRIES}


@pytest.mark.parametrize("room", [name for name in ROOMS if name != "testing"])
def test_a_room_says_what_it_is_what_it_may_import_and_what_it_offers(room):
    text = importlib.import_module(f"fxopt.{room}").__doc__
    assert re.match(r".+[.]", text)
    assert room == "support" or ("ay import" in text and "Offers" in text)


def test_nothing_goes_in_a_circle(graph):
    edges = ((a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a))
    circles = [part for part in networkx.strongly_connected_components(networkx.DiGraph(edges)) if len(part) > 1]
    assert circles == []


def test_the_contracts_hold():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", TORCH_FREE)
def test_what_a_device_installs_imports_no_torch_at_its_head(name):
    paths = _sources(f"fxopt/{name}") or [ROOT / "fxopt" / f"{name}.py"]
    heads = [(path, node) for path in paths for node in ast.parse(path.read_text()).body]
    found = [
        f"{path}:{node.lineno}"
        for path, node in heads
        if isinstance(node, (ast.Import, ast.ImportFrom)) and re.match(r"(from|import) torch\b", ast.unparse(node))
    ]
    assert not found


def _references():
    for folder in ("fxopt", *LINKED):
        for path in _sources(folder):
            if folder == "fxopt" and set(path.relative_to(ROOT / "fxopt").parts) & set(LINKED):
                continue
            for role, target in re.findall(r":(mod|func|class|data|meth):`~?(fxopt\.[\w.]+)`", path.read_text()):
                yield path.relative_to(ROOT), role, target


@pytest.mark.parametrize(("path", "role", "target"), sorted(set(_references()), key=str))
def test_a_reference_in_a_docstring_leads_somewhere(path, role, target):
    parts = target.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        break
    for name in parts[count:]:
        thing = getattr(thing, name) if hasattr(thing, name) else thing.__annotations__[name]
    assert role != "mod" or count == len(parts)
