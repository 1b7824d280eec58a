"""What the README tells a user to type, typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for kind, body in BLOCKS if kind == "console" for line in body.strip().splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder where the README's relative paths mean what they say, without writing into the repository."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "models").symlink_to(ROOT / "models")
    return folder


def _run(place, command):
    env = {
        **os.environ,
        "XDG_CACHE_HOME": str(place / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(["bash", "-c", command], cwd=place, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_command_and_python_block_works_in_order(place):
    assert len(COMMANDS) >= 8
    for i, (kind, body) in enumerate(BLOCKS):
        (place / f"block{i}.py").write_text(body)
        for command in {"console": body.strip().splitlines(), "python": [f"python block{i}.py"]}.get(kind, []):
            done = _run(place, command)
            assert done.returncode == 0, f"{command}\n{body}\n{done.stdout}\n{done.stderr}"
    for name in ("digits", "r18", "mine-int8"):
        assert (place / "build" / name / "manifest.json").is_file()


def test_toml_blocks_are_a_recipe_and_a_target(tmp_path):
    from fxopt.driver.recipe import read_recipe
    from fxopt.target import find_target

    recipe, target = [body for kind, body in BLOCKS if kind == "toml"]
    (tmp_path / "recipe.toml").write_text(recipe)
    (tmp_path / "pi4.toml").write_text(target)
    assert read_recipe(tmp_path / "recipe.toml") == read_recipe(ROOT / "models" / "digits.toml"), "the one that ships"
    assert not find_target(str(tmp_path / "pi4.toml")).is_x86


@pytest.mark.parametrize("heading", ["Start", "Test"])
def test_the_set_up_commands_are_one_line_each(heading):
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    assert len(lines) == 1
    assert "-c constraints.txt" in lines[0]
