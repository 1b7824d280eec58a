"""The contract, on everything that is registered: what is added, here or by a package, is held to it."""

import pytest

from fxopt import registry
from fxopt.testing import checks_of

pytestmark = pytest.mark.usefixtures("brief_timing")
_SLOW = {"executorch"}
"""Backends whose compiler takes seconds for the smallest program; their own tests build one."""


def _checks(kind):
    for name in registry.names(kind):
        try:
            thing = registry.get(kind, name)
            checks = checks_of(thing)
        except Exception as error:  # a registered name that cannot load is a failure of its own, not of the collection
            yield pytest.param(name, error, id=f"{name}-loads")
            continue
        for check in checks:
            builds = name in _SLOW and check.name.startswith("builds")
            values = check.name.startswith("runs with each value")
            trains_or_times = values and (hasattr(thing, "epochs") or "latency" in check.name)
            marks = [pytest.mark.slow] * (builds or trains_or_times)
            yield pytest.param(name, check, marks=marks, id=f"{name}-{check.name.replace(' ', '-')}")


def _run(check):
    if isinstance(check, Exception):
        raise check
    check.run()


@pytest.mark.parametrize(("name", "check"), list(_checks("pass")))
def test_pass(name, check):
    _run(check)


@pytest.mark.xdist_group("backend")
@pytest.mark.parametrize(("name", "check"), list(_checks("backend")))
def test_backend(name, check):
    if not isinstance(check, Exception) and (absent := registry.get("backend", name)().missing()):
        pytest.skip(absent)
    _run(check)


def test_the_built_ins_are_registered():
    assert {"drop_noop", "fold_batch_norm", "fold_constants", "merge_duplicates", "quantize"} <= set(
        registry.names("pass")
    )
    assert {"eager", "onnx"} <= set(registry.names("backend"))
