"""The options of an architecture search, with every name resolved before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxopt.automl.goals import quantity
from fxopt.automl.wanted import Wanted, wanted
from fxopt.driver.recipe import Recipe
from fxopt.errors import OptionError
from fxopt.pass_manager.pipeline import Pipeline

_LEAST = 0.15


@dataclass(frozen=True)
class Asked:
    """One training, and a search for each target. ``behind`` are the passes after the extraction."""

    model: str
    training: tuple[str, ...]
    behind: tuple[str, ...]
    targets: tuple[Wanted, ...]
    least: float
    trials: int
    answers: int
    seed: int
    drop: float | None

    @property
    def quick(self) -> tuple[str, ...]:
        """The passes after the extraction without those that train: latency does not depend on weights."""
        return tuple(str(p) for p in Pipeline.parse(self.behind).passes if p.stage != "recover")


def asked(
    model: str,
    out: Path,
    *,
    targets: Sequence[str] = ("host",),
    backend: str = "onnx",
    limits: Mapping[str, str | float] | None = None,
    epochs: int = 20,
    rate: float = 1e-3,
    by: str = "l2",
    behind: Sequence[str] = ("fold_batch_norm",),
    trials: int = 160,
    answers: int = 8,
    seed: int = 0,
    calibration: str | None = None,
    device: str = "cpu",
    load: Sequence[str] = (),
) -> Asked:
    """Resolve the options of a search. Raises UsageError, and its kind for an unknown name.

    On a target that cannot be timed, the cycles that the backend estimates take the place of latency, or MACs, and a limit of
    latency in proportion to the original's is one of them; a note says so.
    """
    if not targets:
        raise OptionError("nas: name one target or more")
    if trials < 2 or answers < 1:
        raise OptionError(f"nas: takes two trials and one answer or more, got {trials} and {answers}")
    checkpoint = str((out / "supernet").resolve())
    training = (
        f"sort_channels(by={by!r})",
        f"train_supernet(epochs={epochs}, rate={rate!r}, least={_LEAST}, seed={seed}, checkpoint={checkpoint!r})",
    )
    given: dict[str, str | float] = {quantity(what): bound for what, bound in (limits or {}).items()}
    found = []
    for target in dict.fromkeys(targets):
        want = wanted(
            Recipe(model=model, backend=backend, target=target, calibration=calibration, device=device),
            limits=given, objectives=("metric_drop", "latency_ms"), trials=trials, seed=seed, backends=(backend,), load=load,
        )  # fmt: skip
        found.append(want)
    Pipeline.parse((*training, *behind))
    drop = next((limit.bound for want in found for limit in want.goals.limits if limit.what == "metric_drop"), None)
    return Asked(model, training, tuple(behind), tuple(found), _LEAST, trials, answers, seed, drop)
