"""Runtime options of a backend, chosen by measurement on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fxopt.backend import Backend, Runner
from fxopt.runtime.timing import fastest

_B = TypeVar("_B", bound=Backend)


def fastest_options(candidates: Iterable[_B], runner: Callable[[_B], Runner], inputs: list[Any], seconds: float) -> _B:
    """The backend whose ``runner`` is fastest on flat numpy ``inputs``, all timed interleaved for about ``seconds``.

    Candidates that are equal are timed once. The first stays unless another wins clearly.
    """
    distinct = dict.fromkeys(candidates)
    runs = {str(candidate): _bound(runner(candidate), inputs) for candidate in distinct}
    best = fastest(runs, seconds)
    return next(candidate for candidate in distinct if str(candidate) == best)


def _bound(run: Runner, inputs: list[Any]) -> Callable[[], object]:
    return lambda: run(inputs)
