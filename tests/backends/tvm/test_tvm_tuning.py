"""Tuning of the backend TVM: trials survive whatever ends a process, bad candidates cost one trial, and a win is a win."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count, cycle
from pathlib import Path

import pytest
import torch
from cases import tvm_kernels
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxopt import Pipeline, Program, capture
from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm.machine.processor import Processor, processor_of
from fxopt.backends.tvm.tiling.task import Choices, Task, Tile, candidates
from fxopt.backends.tvm.tuning import database as databases
from fxopt.backends.tvm.tuning import search as searches
from fxopt.backends.tvm.tuning.database import Database
from fxopt.backends.tvm.tuning.job import Job
from fxopt.backends.tvm.tuning.proposals import propose, space
from fxopt.backends.tvm.tuning.search import Search, search
from fxopt.backends.tvm.tuning.trial import TaskRecord, Trial
from fxopt.backends.tvm.tuning.worker import compare
from fxopt.backends.tvm.tuning.worker_pool import Workers
from fxopt.driver.lower import legalized, lower
from fxopt.errors import BackendError
from fxopt.numerics.error_metrics import relative_error, sqnr
from fxopt.support.line_log import append_line
from fxopt.target import Target
from fxopt.target.detect import host
from fxopt.testing import small_workload

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)

HERE = Path(__file__).parent
CPU = Processor("x86_64-linux-gnu", "x86-64-v4", lanes=16, registers=32, cores=2)


# ---- the database --------------------------------------------------------------------------------------------------


def _filled(path: Path, trials: int = 5) -> list[Trial]:
    database = Database(path, CPU, 1)
    made = [Trial(Tile(1, 1), 1e-3)]
    for i in range(2, trials + 1):
        made.append(Trial(Tile(i, 1), 1e-3 / i, Tile(i - 1, 1), 1e-3 / (i - 1), won=True))
    for trial in made:
        database.add("a task", trial)
    return made


def test_trials_are_read_back_as_they_were_written(tmp_path):
    made = [*_filled(tmp_path / "t.jsonl"), Trial(Tile(9, 2, 1, 0), failed="ended by SIGSEGV", seed=3)]
    Database(tmp_path / "t.jsonl", CPU, 1).add("a task", made[-1])
    known = Database(tmp_path / "t.jsonl", CPU, 1)["a task"]
    assert known.trials == made
    assert known.best == Tile(5, 1)
    assert known.ratio == pytest.approx(1 / 5)


@given(st.data())
def test_a_file_cut_anywhere_keeps_all_lines_before_and_takes_new_ones(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "t.jsonl"
    made = _filled(path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[: cut + 1].count(b"\n") if cut < len(whole) else len(made)  # only the line's end may be missing
    database = Database(path, CPU, 1)
    assert database["a task"].trials == made[:kept]
    assert len(database.notes) == (
        0 if cut == 0 or whole[cut - 1 : cut + 1] == b"}\n" or whole[cut - 1 : cut] == b"\n" else 1
    )
    database.add("other", Trial(Tile(1, 1), 1.0))
    again = Database(path, CPU, 1)
    assert again["a task"].trials == made[:kept]
    assert again["other"].trials == [Trial(Tile(1, 1), 1.0)]


@pytest.mark.parametrize(
    "line", ["", "   ", "null", "[]", "{}", '{"task": 1}', "\x00\x00", '{"task": "t", "tile": {"rows": 1}}']
)
def test_lines_that_are_none_are_passed_by(line, tmp_path):
    path = tmp_path / "t.jsonl"
    made = _filled(path)
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first}\n{line}\n{rest}")
    database = Database(path, CPU, 1)
    assert database["a task"].trials == made
    assert database.notes == (["t.jsonl: 1 damaged line skipped: 2"] if line.strip() else [])


def test_trials_of_another_tvm_other_schedules_or_another_processor_are_not_used(tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    _filled(path)
    assert not Database(path, CPU, 2).tiles()
    assert not Database(path, Processor("x86_64-linux-gnu", "x86-64-v3", lanes=8, registers=16, cores=2), 1).tiles()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.28.0")
    newer = Database(path, CPU, 1)
    assert not newer.tiles()
    assert len(newer.notes) == 1
    assert "trials of TVM 0." in newer.notes[0]
    newer.add("a task", Trial(Tile(1, 1), 1.0))
    monkeypatch.undo()
    assert Database(path, CPU, 1)["a task"].best == Tile(5, 1)
    monkeypatch.setattr(databases, "SCHEDULES", databases.SCHEDULES + 1)
    assert "other schedules" in " ".join(Database(path, CPU, 1).notes)


_WRITER = """
import sys
from pathlib import Path
from fxopt.support.line_log import append_line
for i in range(150):
    append_line(Path(sys.argv[1]), f'{{"by": {sys.argv[2]}, "i": {i}, "filled": "{"x" * 5000}"}}'.encode())
"""


def test_several_processes_write_whole_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(i)]) for i in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for i in range(3):
        assert [line["i"] for line in lines if line["by"] == i] == list(range(150))


@pytest.mark.parametrize("partly", [False, True])
def test_a_full_disk_leaves_the_file_as_it_was(partly, tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    _filled(path)
    before, write = path.read_bytes(), os.write

    def full(descriptor, data):
        if partly:
            return write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="bytes could be written" if partly else "No space left"):
        append_line(path, b"{}")
    assert path.read_bytes() == before


def test_a_win_over_another_than_the_best_does_not_count():
    """Two processes that tune the same task at once."""
    known = TaskRecord()
    for trial in (
        Trial(Tile(1, 1), 4.0),
        Trial(Tile(2, 1), 2.0, Tile(1, 1), 4.0, won=True),
        Trial(Tile(3, 1), 3.0, Tile(1, 1), 4.0, won=True),
        Trial(Tile(4, 1), 1.0, Tile(2, 1), 2.0),
        Trial(Tile(5, 1), failed="hangs"),
    ):
        known.add(trial)
    assert (known.best, known.seconds, known.ratio) == (Tile(2, 1), 2.0, 0.5)
    assert known.tried() == {Tile(rows, 1) for rows in range(1, 6)}


def test_the_database_is_in_the_cache_of_the_user():
    code = "from fxopt.backends.tvm.tuning.database import default_path; print(default_path())"
    for set_to, folder in (("/somewhere", Path("/somewhere")), ("", Path.home() / ".cache")):
        environment = os.environ | {"XDG_CACHE_HOME": set_to, "FXOPT_CACHE": ""}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == str(folder / "fxopt/tvm-tiles.jsonl")


# ---- proposals -----------------------------------------------------------------------------------------------------

_TASK = Task("conv", 28, 4, 16, lines=(0, 7))


def _order_loops(task: Task, seed: int, times=lambda tile: 1.0, until: Tile | None = None) -> list[Tile]:
    """The tiles that a search tries, where a tile takes ``times`` of it; all, or ``until`` one is found."""
    known: TaskRecord = TaskRecord()
    tiles: list[Tile] = []
    while (not tiles or tiles[-1] != until) and (tile := propose(task, CPU, known, seed)) is not None:
        tiles.append(tile)
        mine, best = times(tile), known.best
        known.add(Trial(tile, mine, best, known.seconds, mine < known.seconds) if best else Trial(tile, mine))
    return tiles


def test_tiles_come_once_each_by_rule_first_and_by_seed():
    order = _order_loops(_TASK, 0)
    assert order[: searches_first()] == candidates(_TASK, CPU)[: searches_first()]
    assert len(set(order)) == len(order)
    assert set(order) == set(space(_TASK, CPU)) | set(order[: searches_first()])
    assert _order_loops(_TASK, 0) == order
    assert _order_loops(_TASK, 1) != order


def searches_first() -> int:
    from fxopt.backends.tvm.tuning import proposals

    return proposals._FIRST


@pytest.mark.parametrize("best", [Tile(10, 2, 8, 7), Tile(1, 6, 1, 0), Tile(27, 1, 2, None)])
def test_what_is_near_the_best_comes_sooner_than_by_chance(best):
    """A valley of which every step downwards is seen: the search finds its floor long before it has tried everything."""

    def times(tile):
        ways = (tile.unroll != best.unroll) + (tile.lines != best.lines) + abs(tile.vectors - best.vectors)
        return 1.0 + ways + abs(tile.rows - best.rows) / 4

    found = [len(_order_loops(_TASK, seed, times, best)) for seed in range(5)]
    assert sorted(found)[2] < len(space(_TASK, CPU)) / 4


@pytest.mark.parametrize(
    "task", [Task("depthwise", 28, 4, 1, shared=False), Task("grouped", 7, 2, 16, grouped=True), Task("row", 1, 9, 13)]
)
def test_tiles_suit_their_task(task):
    tiles = space(task, CPU)
    assert tiles
    for tile in tiles:
        assert tile.rows <= task.positions
        assert task.steps % tile.unroll == 0
        assert not task.grouped or task.vectors % tile.vectors == 0
        assert task.shared or tile.vectors == 1


# ---- timing --------------------------------------------------------------------------------------------------------


def _timer(*seconds):
    each = cycle(seconds)
    return lambda: next(each)


def test_who_is_clearly_faster_wins():
    assert compare(_timer(1.0), _timer(1.2)).won
    assert not compare(_timer(1.0), _timer(1.0)).won
    assert not compare(_timer(0.99), _timer(1.0)).won, "within the noise"
    assert not compare(_timer(1.0), _timer(1.2), seen=1.0).won, "the rival was as fast before"


def test_a_machine_that_stalls_now_and_then_changes_nothing():
    noise = (1.0, 9.0, 1.01, 4.0, 3.0)
    assert not compare(_timer(*noise), _timer(9.0, 9.0, *noise)).won
    won = compare(_timer(*(0.8 * x for x in noise)), _timer(*noise))
    assert won.won
    assert won.seconds / won.rival == pytest.approx(0.8)
    lucky = count(1)
    assert not compare(lambda: 0.5 if next(lucky) == 4 else 1.0 + random.random(), _timer(1.0)).won


def test_a_hopeless_tile_is_not_timed_again():
    calls = []
    times = compare(lambda: calls.append(0) or 9.0, _timer(1.0))
    assert (times.seconds, times.won, len(calls)) == (9.0, False, 1)


# ---- workers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def importable(monkeypatch):
    """Let workers import the kernels of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1]))


def _job(kernel) -> Job:
    return Job(kernel, Tile(4, 4), None, processor_of(host()), 1)


def _outcome(workers: Workers, name: str, seconds: float = 90.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for answer in workers.answers(1.0):
            if answer.name == name:
                return answer
    raise AssertionError(f"no answer to {name}")


@pytest.mark.slow
def test_bad_candidates_cost_a_trial_each(importable):
    bad = {
        "crash": tvm_kernels.Crashes(),
        "hang": tvm_kernels.Hangs(),
        "eat": tvm_kernels.EatsMemory(),
        "fail": tvm_kernels.Fails(),
    }
    with Workers(1, patience=3.0) as workers:
        reasons = {}
        for name, kernel in bad.items():
            workers.start(name, _job(kernel))
            reasons[name] = _outcome(workers, name).failed
            workers.start("good", _job(tvm_kernels.Twice()))
            assert _outcome(workers, "good").times.seconds > 0, f"after {name}"
    assert reasons["crash"] == "ended by SIGSEGV"
    assert reasons["hang"] == "gave no answer within 3 s"
    assert "MemoryError" in reasons["eat"] or "ended" in reasons["eat"]
    assert reasons["fail"] == "failed: ValueError: no such tile"


def test_a_worker_that_does_not_start_is_an_error_with_what_it_said():
    def main():
        pytest.fail("it is that of a module which cannot be imported")

    main.__module__ = "no_such_module"
    with Workers(1, main=main) as workers:
        workers.start("good", _job(tvm_kernels.Twice()))
        with pytest.raises(
            BackendError, match=r"(?s)does not start: ended with exit code 1\n.*No module named 'no_such_module'"
        ):
            _outcome(workers, "good")


def _search(tasks: list[Task], path: Path, **more) -> Search:
    choices = Choices(processor_of(host()))
    for task in tasks:
        choices(task)
    return search(choices, Database(path, choices.processor, 1), 1, **{"seconds": 60.0, "trials": 8, "seed": 0} | more)


@pytest.mark.slow
def test_a_tile_that_crashes_is_written_down_and_never_tried_again(importable, tmp_path):
    rows = candidates(Task("t", 8, 4, 16), processor_of(host()))[1].rows
    task = Task("t", 8, 4, 16, kernel=tvm_kernels.Crashes(rows=rows))
    done = _search([task, Task("u", 8, 4, 16, kernel=tvm_kernels.Twice())], tmp_path / "t.jsonl", trials=10)
    assert done.done == 10
    trials = Database(tmp_path / "t.jsonl", processor_of(host()), 1)["t"].trials
    failed = [trial.tile for trial in trials if trial.failed]
    assert failed
    assert {tile.rows for tile in failed} == {rows}
    _search([task], tmp_path / "t.jsonl", trials=4)
    trials = Database(tmp_path / "t.jsonl", processor_of(host()), 1)["t"].trials
    assert len({trial.tile for trial in trials}) == len(trials)


@pytest.mark.slow
def test_heavy_tasks_are_given_most_trials(importable, tmp_path):
    tasks = [Task(str(size), 8, 4, 16, kernel=tvm_kernels.Twice(size)) for size in (2**4, 2**20)]
    _search(tasks, tmp_path / "t.jsonl", trials=16)
    database = Database(tmp_path / "t.jsonl", processor_of(host()), 1)
    light, heavy = (len(database[str(size)].trials) for size in (2**4, 2**20))
    assert light + heavy == 16
    assert heavy >= 12  # in turn they would have eight each


# ---- a model -------------------------------------------------------------------------------------------------------


def _net() -> Program:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.Flatten(), nn.Linear(8192, 48)
    )
    return capture(net.eval(), (torch.randn(2, 3, 16, 16),))


def _tune(backend: Tvm, program: Program, seconds: float = 60.0) -> Tvm:
    return backend.tune(legalized(program, backend, host()), host(), seconds)


def _facts(backend: Tvm, program: Program, out: Path) -> dict:
    out.mkdir()
    _, artifact = lower(program, backend, host(), out)
    x = torch.randn(3, 3, 16, 16)
    assert relative_error(program(x), torch.from_numpy(artifact(x.numpy()))) < 1e-5
    return artifact.manifest.facts


@pytest.mark.slow
def test_a_build_takes_what_tuning_found_and_another_model_shares_it(tmp_path):
    path = tmp_path / "tiles.jsonl"
    backend = Tvm(threads=1, database=str(path), trials=6)
    program = _net()
    facts = _facts(backend, program, tmp_path / "rule")
    assert facts["notes"][0] == "built from templates: the tiles of all 3 tasks are chosen by rule, none was measured"
    assert _tune(backend, program) == backend
    assert len(path.read_text().splitlines()) == 6
    _tune(backend, program)
    assert len(path.read_text().splitlines()) == 12, "it goes on"
    facts = _facts(backend, program, tmp_path / "one")
    assert set(facts["tuned"]) == set(facts["tiles"])
    known = Database(path, processor_of(host()), 1)
    assert facts["tiles"] == {key: known[key].best.to_dict() for key in facts["tiles"]}
    assert sum(row["trials"] for row in facts["tuned"].values()) == 12
    assert _facts(backend, program, tmp_path / "two") == facts
    assert (tmp_path / "one/model.so").read_bytes() == (tmp_path / "two/model.so").read_bytes()

    torch.manual_seed(1)
    sibling = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 8, 1)).eval()
    facts = _facts(backend, capture(sibling, (torch.randn(2, 3, 16, 16),)), tmp_path / "sibling")
    assert facts["notes"][0] == "2 of 3 tasks have tiles that were measured, the others are chosen by rule"


@pytest.mark.slow
@pytest.mark.parametrize("without", [set(), *[{"amx-int8"}] * ("amx-int8" in host().features)], ids=str)
def test_integer_kernels_are_tuned(without, tmp_path, monkeypatch):
    """The trials are of the kernels that the build then makes: a convolution with groups, a depthwise one, a product."""
    monkeypatch.setattr(
        "fxopt.target.detect.not_here", lambda target: None
    )  # without AMX it may be another than this machine
    target = dataclasses.replace(host(), features=host().features - without)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 40, 3, groups=40), nn.ReLU(),
        nn.Conv2d(40, 64, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 24),
    ).eval()  # fmt: skip
    program = capture(net, (torch.randn(2, 3, 10, 10),))
    backend = Tvm(threads=1, database=str(tmp_path / "t.jsonl"), trials=12)
    where = {"workload": small_workload(program), "target": target, "backend": backend}
    program = Pipeline.parse("quantize").run(program, watchers=(), **where).program
    backend.tune(program, target, 120.0)
    (tmp_path / "built").mkdir()
    artifact = lower(program, backend, target, tmp_path / "built")[1]
    facts = artifact.manifest.facts
    assert facts["integer_contractions"] == 4
    assert set(facts["tuned"]) == set(facts["tiles"])
    assert not any("failed" in row for row in facts["tuned"].values())
    x = torch.randn(3, 3, 10, 10)
    assert sqnr([program(x)], [torch.from_numpy(artifact(x.numpy()))]) > 35


def test_a_tile_of_the_database_is_built_even_if_it_is_not_that_of_the_rule(tmp_path):
    path, program = tmp_path / "tiles.jsonl", _net()
    backend = Tvm(threads=1, database=str(path))
    rule = _facts(backend, program, tmp_path / "rule")["tiles"]
    database, other = Database(path, processor_of(host()), 1), Tile(3, 1, 2)
    for key, tile in rule.items():
        database.add(key, Trial(Tile(**tile), 2.0))
        database.add(key, Trial(other, 1.0, Tile(**tile), 2.0, won=True))
    assert set(map(str, _facts(backend, program, tmp_path / "other")["tiles"].values())) == {str(other.to_dict())}
    assert _facts(Tvm(threads=1, database=""), program, tmp_path / "none")["tiles"] == rule


@pytest.mark.parametrize("case", ["no trials", "nothing to tune"])
def test_without_trials_no_process_is_started(case, tmp_path, monkeypatch):
    monkeypatch.setattr(searches, "Workers", None)
    backend = Tvm(database=str(tmp_path / "t.jsonl"), trials=0 if case == "no trials" else None)
    program = _net() if case == "no trials" else capture(nn.MaxPool2d(2).eval(), (torch.randn(2, 3, 8, 8),))
    assert _tune(backend, program) == backend
    if case == "nothing to tune":
        facts = lower(program, backend, host(), tmp_path)[1].manifest.facts
        assert facts["notes"] == ["there is nothing to tune: no convolution and no product in tiles"]
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_search_and_keeps_what_was_found(tmp_path, monkeypatch):
    path, program, real = tmp_path / "t.jsonl", _net(), databases.append_line

    def append(path, line):
        if path.exists() and path.read_bytes().count(b"\n") == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, line)

    monkeypatch.setattr(databases, "append_line", append)
    backend = Tvm(threads=1, database=str(path), trials=9)
    with pytest.warns(UserWarning, match=r"tuning stopped: .*t\.jsonl: .*No space left on device"):
        _tune(backend, program)
    assert sum(row["trials"] for row in _facts(backend, program, tmp_path / "built")["tuned"].values()) == 4


def test_another_machine_and_no_database_are_refused(tmp_path):
    program = _net()
    with pytest.raises(BackendError, match=r"tunes by measurement.*'pi' is another machine.*aarch64"):
        Tvm(database=str(tmp_path / "t")).tune(program, Target("pi", "aarch64-linux-gnu"), 1.0)
    with pytest.raises(BackendError, match="needs a database"):
        Tvm(database="").tune(program, host(), 1.0)


def test_products_of_pairs_are_timed_with_their_packing(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            return (x @ x.mT).softmax(-1) @ x

    program = capture(Net(), (torch.randn(2, 3, 20, 24),))
    path = tmp_path / "t.jsonl"
    _tune(Tvm(threads=1, database=str(path), trials=4), program)
    trials = [json.loads(line) for line in path.read_text().splitlines()]
    assert {trial["task"] for trial in trials} == {
        "matmul 20x24x20 in 3 pairs l16",
        "matmul 20x20x24 in 3 pairs l16",
    } or (processor_of(host()).lanes != 16)
    assert not [trial for trial in trials if "failed" in trial]


@pytest.mark.slow
def test_the_command_line_tunes_and_reports_it(tmp_path, monkeypatch, capsys):
    from fxopt.cli.main import main

    backend = f"tvm(threads=1, database={str(tmp_path / 't.jsonl')!r}, trials=6)"
    words = ["fxopt", "build", "digits", "-p", "fold_batch_norm", "-b", backend, "--tune", "60", "--no-measure"]
    for trials in (6, 12):
        out = tmp_path / str(trials)
        monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code
        assert "tasks have tiles that were measured" in " ".join(capsys.readouterr().out.split())
        tuned = json.loads((out / "report.json").read_text())["backend"]["tuned"]
        assert sum(row["trials"] for row in tuned.values()) == trials


# ---- kill -9 -------------------------------------------------------------------------------------------------------

_RUN = """
import sys
sys.path[:0] = sys.argv[2:]
from test_tvm_tuning import _net, _tune
from fxopt.backends.tvm import Tvm
_tune(Tvm(threads=1, database=sys.argv[1]), _net(), 120.0)
"""


@pytest.mark.parametrize("times", [pytest.param(2, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.zoo)])
def test_kill_9_loses_no_trial_and_leaves_no_process(times, tmp_path):
    """At random moments, each time from what is there; what was in the file stays, every line is whole, and more comes."""
    path, chance = tmp_path / "t.jsonl", random.Random(0)
    before, grown = b"", 0
    for _ in range(times):
        run = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(path), str(HERE), str(HERE.parents[1])], stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 120
        while run.poll() is None and _size(path) <= len(before) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(chance.random())
        children = _children(run.pid)
        run.send_signal(signal.SIGKILL)
        run.wait()
        after = path.read_bytes()
        assert after.startswith(before)
        lines = after.split(b"\n")
        for line in lines[:-1]:
            json.loads(line)
        assert not lines[-1], "a line was written in parts"
        grown += len(after) > len(before)
        before = after
        assert children
        wait = time.monotonic() + 10
        while any(_alive(child) for child in children) and time.monotonic() < wait:
            time.sleep(0.05)
        assert not [child for child in children if _alive(child)]
    assert grown == times
    database = Database(path, processor_of(host()), 1)
    assert not database.notes
    tried = [(json.loads(line)["task"], str(json.loads(line)["tile"])) for line in before.splitlines()]
    assert len(set(tried)) == len(tried), "a tile was tried again"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
