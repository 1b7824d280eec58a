"""A package of somebody's own: installed by pip, found by its entry points, held to the contract."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fxopt.backend import Environment

HERE = Path(__file__).parents[1]
LIST = """
import json
from fxopt import registry
from fxopt.backend import find_backend
from fxopt.pass_manager.pipeline import Pipeline
entries = [e for kind in ("pass", "backend") for e in registry.entries(kind)]
print(json.dumps({e.name: [e.origin, e.summary] for e in entries}))
print(Pipeline.parse("drop_double_neg, drop_noop"))
print(find_backend("numpy"))
"""


def _install(source: Path, into: Path) -> None:
    pytest.importorskip("setuptools", reason="setuptools is needed to install a package without a network")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
            "--target", into, source,
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip


def _python(*arguments: str, path: list[Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(
        HERE / "plugin", folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    _install(folder / "source", folder / "site")
    return folder


def test_it_is_listed_with_its_origin_and_found_by_name(place):
    done = _python("-c", LIST, path=[place / "site"], cwd=place)
    assert done.returncode == 0, done.stderr
    listed, pipeline, backend = done.stdout.splitlines()
    entries = json.loads(listed)
    assert entries["drop_double_neg"] == [
        "fxopt-example",
        "Let the users of a negation of a negation read what is negated.",
    ]
    assert entries["numpy"] == ["fxopt-example", "Run a graph of a few simple ops with numpy, op by op."]
    assert entries["drop_noop"][0] == "fxopt"
    assert (pipeline, backend) == ("drop_double_neg, drop_noop", "numpy")


@pytest.mark.slow
def test_its_own_tests_pass(place):
    """They run the conformance kit, as a package of somebody's own would."""
    done = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", path=[place / "site"], cwd=place / "source")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_a_name_that_two_packages_take_names_both(place):
    rival = place / "rival"
    shutil.copytree(place / "source", rival, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    (rival / "fxopt_example").rename(rival / "fxopt_rival")
    settings = (rival / "pyproject.toml").read_text()
    (rival / "pyproject.toml").write_text(
        settings.replace("fxopt_example", "fxopt_rival").replace("fxopt-example", "fxopt-rival")
    )
    _install(rival, place / "rival-site")
    done = _python("-c", LIST, path=[place / "site", place / "rival-site"], cwd=place)
    assert done.returncode != 0
    last = done.stderr[done.stderr.rindex("UsageError") :]
    assert "two packages register the pass 'drop_double_neg'" in last
    assert "fxopt-example (fxopt_example.drop_double_neg:drop_double_neg)" in last
    assert "fxopt-rival (fxopt_rival.drop_double_neg:drop_double_neg)" in last
    assert "uninstall one" in last


@pytest.mark.slow
def test_a_package_whose_converter_lives_apart_passes_its_own_tests(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="LiteRT's runtime is not installed: pip install ai-edge-litert")
    if reason := Environment("litert", ("litert-torch",)).missing():
        pytest.skip(reason)
    source = tmp_path / "source"
    shutil.copytree(HERE / "litert", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    _install(source, tmp_path / "site")
    run = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", "tests")
    done = _python(*run, path=[tmp_path / "site"], cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
