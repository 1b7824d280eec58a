"""Checks, their results, and running them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fxopt.backend import Backend
from fxopt.errors import FxoptError, UsageError
from fxopt.pass_manager.pass_base import Pass, PassType
from fxopt.testing.contract import Check, CheckResult, ContractError

if TYPE_CHECKING:
    from fxopt.testing.small_models import SmallModel


def checks_of(
    cls: type[Pass] | type[Backend] | PassType[...], models: Iterable[SmallModel] | None = None
) -> list[Check]:
    """List the checks of a pass or a backend, by default on :func:`~fxopt.testing.small_models`; none is run yet."""
    if isinstance(cls, type) and issubclass(cls, Pass):
        from fxopt.testing.pass_checks import pass_checks

        return pass_checks(cls, models)
    if isinstance(cls, type) and issubclass(cls, Backend):
        from fxopt.testing.backend_checks import backend_checks

        return backend_checks(cls, models)
    raise UsageError(f"there is a contract for classes of Pass and Backend, not for {cls!r}")


def run_checks(
    cls: type[Pass] | type[Backend] | PassType[...], models: Iterable[SmallModel] | None = None
) -> list[CheckResult]:
    """Run every check of a pass or a backend; a failure is a result, not an exception."""
    return [_run(check) for check in checks_of(cls, models)]


def check_pass(cls: type[Pass] | PassType[...], models: Iterable[SmallModel] | None = None) -> None:
    """Check a pass against the contract. Raises ContractError that lists every failed check with the way out."""
    _raise_failures(cls.name, run_checks(cls, models))


def check_backend(cls: type[Backend], models: Iterable[SmallModel] | None = None) -> None:
    """Check a backend against the contract. Raises ContractError that lists every failed check with the way out."""
    _raise_failures(cls.name, run_checks(cls, models))


def _run(check: Check) -> CheckResult:
    start = time.perf_counter()
    try:
        detail, passed = check.run() or "", True
    except (ContractError, FxoptError) as error:
        detail, passed = str(error), False
    except Exception as error:  # a contract violation too: only errors that are written for users may come out
        detail, passed = f"{type(error).__name__}: {error}", False
    return CheckResult(check.name, passed, detail, round(time.perf_counter() - start, 3))


def _raise_failures(name: str, results: list[CheckResult]) -> None:
    failed = [result for result in results if not result.passed]
    if failed:
        lines = [f"{result.name}: {result.detail}".replace("\n", "\n    ") for result in failed]
        raise ContractError(f"{name}: {len(failed)} of {len(results)} checks failed\n  " + "\n  ".join(lines))
