"""Several workers on one PostgreSQL, which the test starts: nothing is tried twice, and a dead worker's trial comes again."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

from fxopt.automl.study import Study
from fxopt.errors import UsageError

CASE = Path(__file__).parent.parent / "cases" / "stripes.py"
TRIALS = 24


def _binaries():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else (Path(p).parent if (p := shutil.which("initdb")) else None)


def _owner():
    """PostgreSQL refuses to run as root: its own user then, None for whoever this is."""
    if os.getuid():
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return pytest.skip("PostgreSQL does not run as root, and there is no user postgres")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """The URL of a fresh cluster."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg")
    owner, folder = _owner(), Path(os.environ.get("TMPDIR", "/tmp")) / f"fxopt-pg-{os.getpid()}"
    folder.mkdir(mode=0o700)
    if owner:
        shutil.chown(folder, owner)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=owner, cwd=folder)

    run(binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", "search", "-N")
    flags = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(binaries / "pg_ctl", "-D", folder / "data", "-o", flags, "-l", folder / "log", "-w", "start")
    try:
        yield f"postgresql+psycopg://search@127.0.0.1:{port}/postgres"
    finally:
        run(binaries / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def worker(url, folder, trials):
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.toml"
    recipe.write_text(
        'model = "stripes"\nbackend = "onnx"\n[search]\npasses = ["prune_channels", "low_rank", "quantize_weights"]\n'
    )
    command = [
        sys.executable, "-m", "fxopt", "search", str(recipe), "--load", str(CASE), "-o", str(folder / "out"), "--drop", "0.1",
        "--minimize", "metric,size,macs", "--trials", str(trials), "--storage", url, "--json",
    ]  # fmt: skip
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "FXOPT_CACHE": str(folder / "cache")})


@pytest.mark.slow
def test_two_workers_share_a_study_and_one_that_dies_costs_nothing(postgres, tmp_path):
    first, second = (worker(postgres, tmp_path / name, TRIALS) for name in ("first", "second"))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(list((tmp_path / "first/out/kept").glob("*"))) < 2:
        time.sleep(0.1)
    first.kill()  # in the middle of a trial, most probably: it is always in one
    first.wait()
    assert second.wait(600) == 0, (tmp_path / "second/log").read_text()
    again = worker(postgres, tmp_path / "first", TRIALS)  # which gives back what it left, and finds little to do
    assert again.wait(600) == 0, (tmp_path / "first/log").read_text()
    storage = optuna.storages.RDBStorage(postgres)
    (summary,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    states = Counter(trial.state.name for trial in trials)
    assert states["RUNNING"] == states["WAITING"] == 0
    assert states["COMPLETE"] + states["PRUNED"] >= TRIALS
    assert states["FAIL"] <= 1
    workers = {trial.user_attrs["worker"][1] for trial in trials if trial.state.name != "FAIL"}
    assert len(workers) >= 2
    reports = [json.loads((tmp_path / name / "out/search.json").read_text()) for name in ("first", "second")]
    assert reports[0]["front"]


@pytest.mark.parametrize(
    "url", ["nothing://here", "postgresql+psycopg://nobody@127.0.0.1:1/none", "sqlite:////no/such/folder/x.db"]
)
def test_a_storage_that_is_none_is_refused(url, tmp_path):
    with pytest.raises(UsageError, match="storage") as caught:
        Study(url, "x", 2, tmp_path)
    assert "sqlite:///" in caught.value.way_out


def test_a_study_of_another_version_is_refused(tmp_path):
    import sqlite3

    url = f"sqlite:///{tmp_path}/study.db"
    Study(url, "x", 2, tmp_path)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v0.0.0.x'")
    with pytest.raises(UsageError, match="storage"):
        Study(url, "x", 2, tmp_path)
