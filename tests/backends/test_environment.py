"""Converters in environments of their own: what they say comes back as it is, and nothing of this process reaches them."""

import venv

import pytest

from fxopt.backend import Environment
from fxopt.errors import BackendError, ResourceError


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An empty environment that is there, and a function that runs a script in it."""
    monkeypatch.setenv("FXOPT_ENVIRONMENTS", str(tmp_path / "environments"))
    made = Environment("bare", ("a-converter==1",))
    venv.create(made.folder, symlinks=True)
    (tmp_path / "out").mkdir()
    return made


@pytest.fixture
def convert(environment, tmp_path):
    def convert(body):
        script = tmp_path / "script.py"
        script.write_text(f"import json, os, sys\nmodel, out, facts = sys.argv[1:]\n{body}\n")
        (tmp_path / "model.pt2").write_bytes(b"a model")
        return environment.convert(script, tmp_path / "model.pt2", tmp_path / "out")

    return convert


def test_it_reads_the_model_writes_files_and_returns_facts(convert, tmp_path):
    found = convert(
        "open(os.path.join(out, 'made'), 'wb').write(open(model, 'rb').read()[::-1])\n"
        "json.dump({'ops': 3, 'prefix': sys.prefix}, open(facts, 'w'))"
    )
    assert (tmp_path / "out/made").read_bytes() == b"ledom a"
    assert found == {"ops": 3, "prefix": str(tmp_path / "environments/bare")}


def test_neither_packages_nor_paths_of_this_process_reach_it(convert, monkeypatch, tmp_path):
    """One of its own would be shadowed: with another numpy the converter would crash, or compute something else."""
    (tmp_path / "numpy.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    find = "[importlib.util.find_spec(n) is not None for n in ('numpy', 'torch', 'fxopt')]"
    found = convert(f"import importlib.util\njson.dump({{'there': {find}}}, open(facts, 'w'))")
    assert found == {"there": [False, False, False]}


@pytest.mark.parametrize(
    ("body", "error", "said", "way_out"),
    [
        ("json.dump({'error': 'no sort', 'way_out': 'topk'}, open(facts, 'w')); sys.exit(1)", BackendError, "no sort", "topk"),
        ("raise ValueError('the last line')", BackendError, "exit code 1: ValueError: the last line", "-v"),
        ("sys.exit(7)", BackendError, "exit code 7: it printed nothing", "-v"),
        ("open(facts, 'w').write('{')", BackendError, "no JSON", None),
        ("open(facts, 'w').write('[1]')", BackendError, "no JSON object", None),
        ("os.kill(os.getpid(), 9)", ResourceError, "was killed", "more"),
    ],
)  # fmt: skip
def test_what_fails_there_is_told_here(convert, body, error, said, way_out):
    with pytest.raises(error, match=said) as told:
        convert(body)
    assert way_out is None or way_out in told.value.way_out


def test_one_that_is_not_there_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FXOPT_ENVIRONMENTS", str(tmp_path / "a folder"))
    absent = Environment("x", ("torch==2.13.0", "litert-torch"))
    assert absent.missing().endswith(
        f"python3 -m venv '{tmp_path}/a folder/x' && '{tmp_path}/a folder/x'/bin/pip install torch==2.13.0 litert-torch"
    )
    with pytest.raises(BackendError, match="is missing"):
        absent.convert(tmp_path / "s.py", tmp_path / "m", tmp_path)
