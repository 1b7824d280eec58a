"""The rungs that a recipe climbs in a search, the cheapest refusal first.

========== ============================================== =====================================================
rung       what runs                                      what is known then
========== ============================================== =====================================================
size       passes that remove things, exact ones          MACs, parameters
speed      ... and the numeric one, built                 bytes, memory, latency on the target
quality    ... and a least-squares refit in place of      the metric without training, on half of the validation
           training                                       split
train-k    the recipe with k epochs, from the rung before the metric after 1, 3, 9 epochs
final      the recipe, built and checked                  all, the metric on the whole validation split
========== ============================================== =====================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fxopt import registry
from fxopt.automl.dimensions import Dimension, dimensions_of
from fxopt.automl.space import LOSSY, Point, Space
from fxopt.pass_manager.pass_base import Pass, Stage
from fxopt.pass_manager.pipeline import Pipeline

_EPOCHS = (1, 3, 9)
_REFIT = "reconstruct"
"""The pass of the rung ``quality``: it needs no labels and takes seconds."""


@dataclass(frozen=True)
class Rung:
    """A rung by name, and the passes that it runs; ``compares`` where only the best of those that reach it go on.

    ``epochs`` is how many the recipe was trained for by its end.
    """

    name: str
    passes: tuple[str, ...]
    compares: bool = False
    epochs: int = 0


def ladder(point: Point, space: Space) -> tuple[Rung, ...]:
    """The rungs of a recipe, in order; the last is ``final``. Raises the UsageError of a pass that cannot be read."""
    passes = Pipeline.parse(point.passes).passes
    stages = {pass_: _stage(pass_, space) for pass_ in passes}
    bare = [p for p in passes if stages[p] not in ("recover", "numeric")]
    quick = [_at_most(p, 1) for p in passes if stages[p] != "recover"]
    rungs = [Rung("size", _texts(bare)), Rung("speed", _texts(quick))]
    training, most = [p for p in passes if fidelity(p) is not None], 0
    if training:
        if any(stages[p] in LOSSY for p in passes):
            rungs.append(Rung("quality", _texts(_refitted(passes, stages)), compares=True))
        most = max(getattr(p, d.name) for p in training if (d := fidelity(p)))
        for epochs in _EPOCHS:
            if epochs < most:
                parts = [part for p in passes for part in _in_parts(p, epochs)]
                rungs.append(Rung(f"train-{epochs}", _texts(parts), compares=True, epochs=epochs))
    return (*rungs, Rung("final", point.passes, epochs=most))


def _refitted(passes: tuple[Pass, ...], stages: dict[Pass, Stage | None]) -> Iterator[Pass]:
    """The passes with a refit after the last lossy one, and no training."""
    last = max(i for i, p in enumerate(passes) if stages[p] in LOSSY)
    for i, pass_ in enumerate(passes):
        if stages[pass_] != "recover":
            yield _at_most(pass_, 1)
        if i == last:
            yield registry.get("pass", _REFIT)()


def _stage(pass_: Pass, space: Space) -> Stage | None:
    found = space.find(pass_.name)
    return found.stage if found else pass_.stage


def fidelity(pass_: Pass) -> Dimension | None:
    """The option that says how long a pass trains; None for one that does not train."""
    return next((d for d in dimensions_of(type(pass_)) if d.fidelity), None)


def _at_most(pass_: Pass, amount: int) -> Pass:
    """The pass with no more training than this."""
    dimension = fidelity(pass_)
    if dimension is None or getattr(pass_, dimension.name) <= amount:
        return pass_
    return replace(pass_, **{dimension.name: amount})


def _in_parts(pass_: Pass, epochs: int) -> tuple[Pass, ...]:
    """The pass with no more epochs than these, cut so that it resumes the training of the rungs below."""
    short, dimension = _at_most(pass_, epochs), fidelity(pass_)
    if dimension is None:
        return (short,)
    most = getattr(short, dimension.name)
    return short.in_rungs(*(end for end in _EPOCHS if end < most), most)


def _texts(passes: Iterator[Pass] | list[Pass]) -> tuple[str, ...]:
    return tuple(map(str, passes))
