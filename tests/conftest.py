"""Shared by all tests: two threads, equal seeds, hypothesis without chance, goldens as text."""

import gc
import hashlib
import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

collect_ignore = ["plugin", "litert"]  # packages of their own: test_plugin.py installs them and runs their tests
GOLDEN = Path(__file__).parent / "golden"
WAIT_ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "TVM_THREAD_POOL_SPIN_COUNT": "0"}
"""Where more threads run than there are cores, one that waits in a loop keeps a core from one that works."""

hypothesis.settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.txt anew; review the diff")


def pytest_configure(config):
    workers = hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None)
    threads = int(os.environ.get("OMP_NUM_THREADS", 1 if workers else 2))  # one a worker: two cores, two workers
    torch.set_num_threads(threads)
    for name, value in {"OMP_NUM_THREADS": str(threads), **WAIT_ASLEEP}.items():
        os.environ.setdefault(name, value)  # for workers, which start after this, and for what a test starts


def pytest_collection_modifyitems(items):
    # these take minutes, and no worker should be left alone with them; tests of the command line raise signals in this
    # process, which native runtimes that other tests have loaded may answer in their own way
    first = ("tests/test_docs", "tests/test_bench", "tests/backends/test_emulated", "tests/cli/")
    items.sort(key=lambda item: [not item.nodeid.startswith(name) for name in first])


def pytest_collection_finish():
    """What is there now stays to the end, and need not be looked through for garbage, of which tests make much."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What a test draws without a seed of its own does not depend on the tests that its worker ran before."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def golden(request):
    """Compare a text with ``tests/golden/NAME.txt``: ``golden(text)``, or ``golden(text, "name")`` for a second one."""

    def compare(text, name=None):
        path = GOLDEN / f"{name or request.node.name.replace('[', '-').replace(']', '')}.txt"
        if request.config.getoption("--update-golden"):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(text.rstrip() + "\n")
        if not path.exists():
            pytest.fail(f"there is no {path.relative_to(GOLDEN.parent.parent)}; write it with pytest --update-golden")
        assert text.rstrip() + "\n" == path.read_text(), f"differs from {path.name}; if right, pytest --update-golden"

    return compare


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory):
    """Builds here must not depend on what the user of this machine built or tuned before, nor write beside it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FXOPT_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _no_cache_of_another_test(_no_cache_of_the_user, request, monkeypatch):
    """What one test built, another builds again."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    monkeypatch.setenv("FXOPT_CACHE", str(_no_cache_of_the_user / name))


@pytest.fixture
def registering():
    """Register a thing for one test: ``registering("pass", "name", thing)``."""
    from fxopt import registry

    with registry.restored():
        yield lambda kind, name, value: registry.register(kind, name, value, "the test")


@pytest.fixture(scope="session")
def programs():
    """The small models captured, by name. Take ``.copy()`` before an edit in place."""
    from fxopt.testing import small_programs

    return small_programs()


@pytest.fixture(scope="session")
def emulated_root():
    """The file system of an emulated aarch64 device, made once on this machine."""
    import emulated_device

    if reason := emulated_device.cannot_emulate():
        pytest.skip(reason)
    return emulated_device.make()


@pytest.fixture(scope="module")
def one_thread():
    """Small layers gain nothing from a second thread, and lose much where another process has its core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def brief_timing():
    """For tests that need programs to be timed, not the times: here and in processes that are started, timing is brief."""
    from fxopt.runtime.timing import briefly

    with briefly(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "cases" / "brief"), prepend=os.pathsep)
        yield
