"""The core knows no pass, backend or model: it reaches them through the registry."""

import ast
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
    allowed = {"fxopt", "passes", "backends", "models", "tests", "build"}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".") and "egg-info" not in p.name}
    assert folders <= allowed


def test_every_package_folder_is_packaged():
    import tomllib

    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(config["tool"]["setuptools"]["packages"])
    places = {"fxopt": "fxopt", "passes": "fxopt.passes", "backends": "fxopt.backends", "models": "fxopt.models"}
    for top, package in places.items():
        for init in (ROOT / top).rglob("__init__.py"):
            name = ".".join([package, *init.parent.relative_to(ROOT / top).parts])
            assert name in listed, f"{init} is not in [tool.setuptools] packages"
