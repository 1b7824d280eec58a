"""The store of results: what is found is what was put, whoever is killed, whatever is damaged, however little room there is."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt.support.store import CacheWarning, Store, Usage

KEY = "a" * 64


def _keys(count):
    return [f"{i:064x}" for i in range(count)]


@given(
    values=st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    ),
    blob=st.binary(max_size=100),
)
def test_what_is_found_is_what_was_put(tmp_path_factory, values, blob):
    root = tmp_path_factory.mktemp("store")
    Store(root, 10**6).put("steps", KEY, values, blob)
    found = Store(root, 10**6).get("steps", KEY)
    assert (found.values, found.blob) == (values, blob)


@given(at=st.integers(0, 200), to=st.integers(0, 255))
def test_a_damaged_entry_is_none_and_is_removed(tmp_path_factory, at, to):
    root = tmp_path_factory.mktemp("store")
    store = Store(root, 10**6)
    store.put("steps", KEY, {"a": 1}, b"x" * 100)
    path = root / "steps" / KEY[:2] / KEY
    data = bytearray(path.read_bytes())
    at %= len(data)
    same = data[at] == to
    data[at] = to
    path.write_bytes(data)
    assert (store.get("steps", KEY) is not None) == same
    assert path.exists() == same


@pytest.mark.parametrize("left", [0, 5, 20, 60, 100])
def test_a_torn_entry_is_none_and_is_removed(tmp_path, left):
    store = Store(tmp_path, 10**6)
    store.put("steps", KEY, {"a": 1}, b"x" * 100)
    path = tmp_path / "steps" / KEY[:2] / KEY
    path.write_bytes(path.read_bytes()[:left])
    assert store.get("steps", KEY) is None
    assert not path.exists()


def test_an_entry_under_another_name_is_not_believed(tmp_path):
    store = Store(tmp_path, 10**6)
    store.put("steps", KEY, {"a": 1})
    other = KEY[:2] + "b" * 62
    (tmp_path / "steps" / KEY[:2] / KEY).rename(tmp_path / "steps" / KEY[:2] / other)
    assert store.get("steps", other) is None


def test_the_least_recently_used_go_first(tmp_path):
    store = Store(tmp_path, 20_000)
    for i, key in enumerate(_keys(10)):
        store.put("programs", key, {}, b"x" * 1500)
        os.utime(tmp_path / "programs" / key[:2] / key, (i, i))
    assert store.get("programs", _keys(10)[0]) is not None  # used again
    for key in _keys(14)[10:]:
        store.put("programs", key, {}, b"x" * 1500)
    there = [i for i, key in enumerate(_keys(14)) if store.get("programs", key)]
    assert 0 in there
    assert 1 not in there
    assert there[-1] == 13
    assert sum(usage.bytes for usage in store.usage().values()) <= 20_000


def test_an_entry_that_would_fill_the_store_is_not_kept(tmp_path):
    store = Store(tmp_path, 1000)
    store.put("programs", KEY, {}, b"x" * 600)
    assert store.get("programs", KEY) is None


def test_usage_counts_entries_bytes_and_hits_and_clear_removes_all(tmp_path):
    store = Store(tmp_path / "results", 10**6)
    assert store.usage() == {}
    for key in _keys(3):
        store.put("steps", key, {})
    for _ in range(5):
        store.get("steps", _keys(3)[1])
    store.get("steps", _keys(3)[1], count=False)
    store.get("steps", KEY)
    size = sum(path.stat().st_size for path in (tmp_path / "results").rglob("*") if len(path.name) == 64)
    assert store.usage() == {"steps": Usage(3, size, 5)}
    assert store.clear() == size
    assert store.usage() == {}
    store.put("steps", KEY, {})
    assert store.get("steps", KEY) is not None


def test_a_store_that_cannot_be_written_says_so_once_and_goes_on(tmp_path):
    (tmp_path / "file").write_text("no folder")
    store = Store(tmp_path / "file" / "cache", 10**6)
    with pytest.warns(CacheWarning, match="going on without a cache: .*file/cache: Not a directory"):
        store.put("steps", KEY, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put("steps", KEY, {})
        assert store.get("steps", KEY) is None
    assert "Not a directory" in store.problem


def test_a_full_disk_leaves_no_half_entry(tmp_path):
    code = f"""
import resource, warnings
from pathlib import Path
from fxopt.support.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
store = Store(Path({str(tmp_path)!r}), 10**6)
store.put("steps", "{"b" * 64}", {{}}, b"x" * 100)
store.put("steps", "{KEY}", {{}}, b"x" * 9000)
store.put("steps", "{"c" * 64}", {{}}, b"x" * 100)
print(store.problem)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert done.stderr.count("going on without a cache") == 1
    store = Store(tmp_path, 10**6)
    assert store.get("steps", "b" * 64) is not None
    assert store.get("steps", KEY) is None
    assert [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"] == []


def _put_and_get(root, seed, rounds):
    store = Store(root, 20_000)
    for i in range(rounds):
        key = f"{(seed + i) % 17:064x}"
        store.put("programs", key, {"key": key}, key.encode() * 20)
        found = store.get("programs", key)
        assert found is None or (found.values["key"], found.blob) == (key, key.encode() * 20)


def test_several_processes_share_a_store(tmp_path):
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        workers = [context.Process(target=_put_and_get, args=(tmp_path, 5 * i, 300)) for i in range(4)]
        for worker in workers:
            worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    _put_and_get(tmp_path, 0, 17)


def test_a_process_killed_while_it_writes_leaves_whole_entries(tmp_path):
    context = multiprocessing.get_context("fork")
    for i in range(12):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            worker = context.Process(target=_put_and_get, args=(tmp_path, i, 10**6))
            worker.start()
        time.sleep(0.01 + 0.003 * i)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    store = Store(tmp_path, 20_000)
    for key in _keys(17):
        path = tmp_path / "programs" / key[:2] / key
        assert path.exists() == (store.get("programs", key) is not None), "whole, or not there"
    for path in tmp_path.rglob("*.tmp"):  # what was being written goes when it is old
        os.utime(path, (0, 0))
    Store(tmp_path, 20_000).put("steps", KEY, {})
    assert list(tmp_path.rglob("*.tmp")) == []
