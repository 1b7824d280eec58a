"""What is built and how tools see it: the wheel and the sdist, a script beside the checkout, types in a user's script."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The names in the sdist, in the wheel made of it, and in that of the demo weights."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    archive = source / "tree.tar"
    command = ["tar", "-cf", archive, "--null", "-T", "-"]
    subprocess.run(command, cwd=ROOT, input=listed.stdout, text=True, check=True)
    tree = source / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tree], check=True)
    for folder, kinds in ((tree, ()), (tree / "models" / "demo_weights", ("--wheel",))):
        command = [sys.executable, "-m", "build", "-q", "--no-isolation", "--outdir", out, *kinds, folder]
        subprocess.run(command, check=True, capture_output=True)
    (sdist,), (core,), (weights,) = (
        sorted(out.glob(p)) for p in ("*.tar.gz", "fxopt-*.whl", "fxopt_demo_weights-*.whl")
    )
    with tarfile.open(sdist) as file:
        packed = {name.partition("/")[2] for name in file.getnames()}
    return packed, core, weights


def _package(names):
    return {name for name in names if name.startswith("fxopt/") and not name.endswith("/")}


def test_wheel_and_sdist_hold_the_same_package(built):
    packed, core, _ = built
    with zipfile.ZipFile(core) as wheel:
        files = _package(wheel.namelist())
    assert files == {name for name in _package(packed) if Path(name).suffix}
    here = {str(path.relative_to(ROOT / "fxopt")) for path in (ROOT / "fxopt").rglob("*.py")}
    here |= {
        f"{top}/{p.relative_to(ROOT / top)}"
        for top in ("passes", "backends", "models")
        for p in (ROOT / top).rglob("*.py")
    }
    assert {f"fxopt/{name}" for name in here if not name.startswith("models/demo_weights")} <= files


def test_the_weights_of_the_demo_models_do_not_ride_in_the_core_wheel(built):
    _, core, weights = built
    with zipfile.ZipFile(core) as wheel:
        assert not [name for name in wheel.namelist() if name.endswith(".safetensors")]
    assert core.stat().st_size < 1_500_000
    with zipfile.ZipFile(weights) as wheel:
        found = {name for name in wheel.namelist() if name.endswith(".safetensors")}
    names = ("digits", "glyphs", "pitch", "shape_masks", "shapes", "small_lm", "small_vit")
    assert found == {f"fxopt/models/demo_weights/{name}.safetensors" for name in names}


def test_a_script_beside_the_checkout_finds_the_package(tmp_path):
    """In a folder that holds the checkout, a namespace package of its name must not win."""
    (tmp_path / "fxopt").symlink_to(ROOT)
    (tmp_path / "script.py").write_text("import fxopt\nprint(fxopt.load.__name__, fxopt.capture.__name__)\n")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["load", "capture"], done.stderr


@pytest.mark.parametrize("module", ["fxopt", "fxopt.cli"])
def test_the_package_and_its_command_line_run_as_modules(module):
    done = subprocess.run([sys.executable, "-m", module, "passes"], capture_output=True, text=True, check=True)
    assert "fold_batch_norm" in done.stdout


SCRIPT = '''
from typing import Literal

import fxopt
from fxopt import Context, Program, graph_pass
from fxopt.passes.prune.prune_channels import prune_channels
from fxopt.passes.quant.quantize import quantize
from fxopt.testing import check_pass


@graph_pass
def mine(program: Program, *, m: Literal[1, 2] = 1) -> None:
    """Do nothing."""


@graph_pass(kind="approx")
def other(program: Program, context: Context, *, share: float = 0.5) -> None:
    """Do nothing."""
    print(context.target.nothing)  # wrong: attr


pipeline = fxopt.Pipeline.of(mine(m=2), other(share=0.25), quantize(images=3), prune_channels(ratio=0.5))
check_pass(mine)
print(fxopt.capture(3))  # wrong: a module
mine(m=3)  # wrong: no such value
mine(n=1)  # wrong: no such option
other(share="x")  # wrong: type
quantize(imagess=3)  # wrong: no such option
prune_channels(ratioo=0.5)  # wrong: no such option
'''
WRONG = {i for i, line in enumerate(SCRIPT.splitlines(), 1) if "# wrong" in line}


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        pytest.param("mypy", ("--strict", "--python-executable", sys.executable), marks=pytest.mark.slow),
        ("pyright", ("--pythonpath", sys.executable)),
    ],
)
def test_type_checkers_see_the_package_and_the_options_of_passes_in_a_users_script(tool, options, tmp_path):
    """Outside the checkout, as installed; each wrong line is found, and no other."""
    if not (BIN / tool).exists():
        pytest.skip(f"{tool} is not installed")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [BIN / tool, *options, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    found = {int(n) for n in re.findall(r"script\.py:(\d+)(?::\d+)?:? (?:- )?error", done.stdout)}
    assert found == WRONG, done.stdout + done.stderr
