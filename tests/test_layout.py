"""The core knows no pass, backend or model: it reaches them through the registry. What is installed is all that there is."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUTSIDE = ("fxopt.passes", "fxopt.backends", "fxopt.models")


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_core_imports_no_pass_backend_or_model():
    found = [
        f"{path.name} imports {name}"
        for path in (ROOT / "fxopt").rglob("*.py")
        for name in _imports(path)
        if name.startswith(OUTSIDE)
    ]
    assert not found


def test_top_level_names_are_the_agreed_ones():
    allowed = {"fxopt", "passes", "backends", "models", "tests", "docs", "build"}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".") and "egg-info" not in p.name}
    assert folders <= allowed


SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PLACES = {"fxopt": "fxopt", "passes": "fxopt.passes", "backends": "fxopt.backends", "models": "fxopt.models"}


def _package(folder):
    top, *parts = folder.relative_to(ROOT).parts
    return ".".join([PLACES[top], *parts])


def test_every_package_folder_is_packaged_and_no_other():
    folders = {_package(init.parent) for top in PLACES for init in (ROOT / top).rglob("__init__.py")}
    assert folders == set(SETUPTOOLS["packages"])


def test_every_file_that_is_no_module_is_packaged_and_every_pattern_finds_some():
    patterns = {(package, pattern) for package, found in SETUPTOOLS["package-data"].items() for pattern in found}
    used = set()
    for path in (path for top in PLACES for path in (ROOT / top).rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            fitting = {(p, pattern) for p, pattern in patterns if p == _package(path.parent) and path.match(pattern)}
            assert fitting, f"{path} is not in [tool.setuptools.package-data]"
            used |= fitting
    assert used == patterns
