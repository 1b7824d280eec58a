"""What the README and the pages in docs/ tell a user to type, typed; what they name is there."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "cache"
"""What `.ci/run first` kept of the build that the README begins with; a change of the code makes it anew."""
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
BLOCKS = [
    (page, *block) for page, text in TEXTS.items() for block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
]
KINDS = {
    "console",  # each line is run
    "python",  # run
    "toml",  # read as a recipe, a target or entry points
    "bash",  # run on an emulated board by test_emulated.py
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, brief_timing):
    """A folder where the pages' relative paths mean what they say, without writing into the repository."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("models", "tests"):
        (folder / name).symlink_to(ROOT / name)
    if KEPT.is_dir():
        shutil.copytree(KEPT, folder / "cache")
    return folder


def _run(place, command):
    env = {
        **os.environ,
        "FXOPT_CACHE": str(place / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(["bash", "-c", command], cwd=place, env=env, capture_output=True, text=True, check=False)


def _commands():
    """By page what it tells to run, in order, with the block to show; what several pages have is the first one's."""
    pages: dict[str, list[tuple[str, str]]] = {page: [] for page in TEXTS}
    seen: set[str] = set()
    for page, kind, body in BLOCKS:
        lines = body.strip().splitlines() if kind == "console" else [body] if kind == "python" else []
        pages[page] += [(line, body) for line in lines if line not in seen]
        seen |= set(lines)
    return {page: found for page, found in pages.items() if found}


def _failures(place, page):
    """What the commands and blocks of a page that do not work print."""
    failures = []
    for i, (line, body) in enumerate(_commands()[page]):
        if line == body and "\n" in body:
            (place / f"block{i}.py").write_text(body)
            line = f"python block{i}.py"
        done = _run(place, line)
        if done.returncode != 0:
            failures.append(f"{page}: {line}\n{body}\n{done.stdout}\n{done.stderr}")
    return "\n\n".join(failures)


@pytest.fixture(scope="module")
def after_readme(place):
    """The folder as the README's commands leave it: the pages go on from there."""
    failures = _failures(place, "README.md")
    assert not failures, failures
    for name in ("digits", "r18", "mine-int8"):
        assert (place / "build" / name / "manifest.json").is_file()
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in _commands() if page != "README.md"])
def test_every_command_and_python_block_works_in_order(page, after_readme):
    failures = _failures(after_readme, page)
    assert not failures, failures


def test_every_block_is_of_a_kind_that_is_checked():
    fences = [line for text in TEXTS.values() for line in text.splitlines() if line.startswith("```")]
    assert {fence.removeprefix("```") for fence in fences} <= {"", *KINDS}
    assert {kind for _, kind, _ in BLOCKS} == KINDS


def test_toml_blocks_are_a_recipe_a_target_or_entry_points(tmp_path):
    from fxopt.automl.read_space import read_space
    from fxopt.driver.recipe import read_recipe
    from fxopt.target import find_target

    recipes, targets, entries = [], [], []
    for _, kind, body in BLOCKS:
        if kind == "toml":
            values = tomllib.loads(body)
            (recipes if "model" in values else targets if "triple" in values else entries).append((body, values))
    for body, values in recipes:
        (tmp_path / "recipe.toml").write_text(body)
        recipe = read_recipe(tmp_path / "recipe.toml")
        if "search" in values:
            assert read_space(recipe.search, (recipe.backend,), recipe.passes).required
        else:
            assert recipe == read_recipe(ROOT / "models" / "digits.toml"), "the one that ships"
    for body, _ in targets:
        (tmp_path / "pi4.toml").write_text(body)
        assert not find_target(str(tmp_path / "pi4.toml")).is_x86
    example = tomllib.loads((ROOT / "tests" / "plugin" / "pyproject.toml").read_text())["project"]["entry-points"]
    for _, values in entries:
        for group, points in values["project"]["entry-points"].items():
            assert points.items() <= example[group].items(), "those of the example package"
    assert recipes
    assert targets
    assert entries


@pytest.mark.parametrize("heading", ["Start", "Test"])
def test_the_set_up_commands_are_one_line_each(heading):
    section = TEXTS["README.md"].split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    assert len(lines) == 1
    assert "-c constraints.txt" in lines[0]


def test_the_readme_stays_short():
    assert len(TEXTS["README.md"].splitlines()) <= 150


def _anchors(text):
    """Names of the headings of a page, as links spell them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_a_page_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        path, _, anchor = link.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.is_file(), link
        assert not anchor or anchor in _anchors(found.read_text()), link


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_are_named_are_there(page):
    """Paths in code spans, from the root of the repository; not those that a command makes."""
    named = re.findall(r"`((?:fxopt|passes|backends|models|tests|docs)/[\w./-]*)`", TEXTS[page])
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_what_examples_import_is_there():
    """Quick, where running them is slow."""
    for page, kind, body in BLOCKS:
        for node in ast.walk(ast.parse(body)) if kind == "python" else ():
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{page}: from {node.module} import {missing}"


def test_methods_that_the_guides_name_are_there():
    from fxopt import Backend, Program

    for page, owner, pattern in (
        ("docs/write-a-backend.md", Backend, r"`(\w+)(?:\([^`)]*\))?`"),
        ("docs/write-a-pass.md", Program, r"`program\.(\w+)"),
    ):
        firsts = [row.split("|")[1] for row in TEXTS[page].splitlines() if row.startswith("| `")]
        named = {name for first in firsts for name in re.findall(pattern, first)}
        known = {*dir(owner), *owner.__dataclass_fields__}
        assert len(named) >= 8
        assert named <= known, named - known


def test_the_navigation_has_every_page():
    yaml = pytest.importorskip("yaml")
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def leaves(item):
        if isinstance(item, str):
            return [item]
        values = item.values() if isinstance(item, dict) else item
        return [leaf for value in values for leaf in leaves(value)]

    pages = [f"docs/{leaf}" for leaf in leaves(nav) if not leaf.startswith("reference/")]  # made as the site is
    assert sorted(pages) == sorted(page for page in TEXTS if page != "README.md")
