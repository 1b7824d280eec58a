"""Several workers on one PostgreSQL, which the test starts: nothing is tried twice, and a dead worker's trial comes again."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from cases.postgres import cannot_start
from cases.postgres import postgres as cluster

from fxopt.automl.study import Study
from fxopt.errors import UsageError

CASE = Path(__file__).parent.parent / "cases" / "stripes.py"
TRIALS = 24


@pytest.fixture(scope="module")
def postgres():
    """The URL of a fresh cluster."""
    if reason := cannot_start():
        pytest.skip(reason)
    pytest.importorskip("psycopg")
    with cluster() as url:
        yield url


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
