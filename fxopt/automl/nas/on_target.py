"""The search for one target: some sub-networks timed, many scored, the best built, timed side by side and proved."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fxopt.automl.apart import Apart, TrialFailed, TrialRefused
from fxopt.automl.evaluator import Task, digest_of
from fxopt.automl.goals import Quantity
from fxopt.automl.nas.asked import Asked
from fxopt.automl.nas.cost_model import CostModel
from fxopt.automl.nas.evolve import Bounds, evolve
from fxopt.automl.nas.lines import Lines
from fxopt.automl.nas.report import Failed, SubnetAnswer, TargetReport
from fxopt.automl.nas.scores import Scores
from fxopt.automl.nas.view import Subnet, Supernet
from fxopt.automl.pareto import front, hypervolume
from fxopt.automl.rungs import Rung
from fxopt.automl.space import Point
from fxopt.automl.wanted import Wanted
from fxopt.automl.write_front import write_front
from fxopt.errors import BudgetError, VerifyError

_SAMPLES, _ROUNDS, _AGAIN = 10, 3, 4
"""Sub-networks that are timed at first; rounds of evolution, and members of the front that are timed after each."""
_BLOCKS = 21
_SLACK = 0.1
"""How far beyond a limit a predicted latency may be."""
_TOLERANCE = 1e-9

_MODELLED: tuple[Quantity, ...] = ("latency_ms", "cycles")
"""Costs that are measured or estimated from a build, and predicted for all others; MACs are counted."""

Said = Callable[[str], None]


class OnTarget:
    """A target with its measurements, stored in a folder."""

    def __init__(
        self, ask: Asked, want: Wanted, supernet: Supernet, scores: Scores, folder: Path, key: str, say: Said
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ask, self._want, self._supernet, self._scores = ask, want, supernet, scores
        self._folder, self._say = folder, say
        self._lines = Lines(folder / "measured.jsonl", key)
        self._backend = want.space.backends[0]
        task = Task(replace(want.recipe, backend=self._backend), want.load, str((folder / "kept").resolve()))
        self._apart = Apart(task, folder / "log")
        objectives = want.goals.objectives
        self._cost_is: Quantity = next((w for w in _MODELLED if w in objectives), "macs")

    def search(self) -> TargetReport:
        """Search, write the front, and return the report. Raises BudgetError where the smallest is over a limit."""
        try:
            return self._search()
        finally:
            self._apart.close()

    def _search(self) -> TargetReport:
        ask, supernet, goals = self._ask, self._supernet, self._want.goals
        if "baseline" not in self._lines.known:
            self._lines.add("baseline", self._apart.call("baseline"))
        original: dict[str, float] = self._lines.known["baseline"]["figures"]
        self._apart.resume(original.get("latency_ms"))
        offered = supernet.offered()
        whole = supernet.canonical([counts[-1] for counts in offered], ())
        bounds = Bounds(offered, ask.least * supernet.costs(*whole)["macs"])
        drawn = supernet.draw(offered, ask.trials, ask.least, ask.seed)
        first = list(dict.fromkeys([drawn[0], whole, *drawn[1:]]))
        self._check_smallest(drawn[0], original)
        if self._cost_is in _MODELLED:
            for subnet in first[:_SAMPLES]:
                self._measure(subnet)
        evolved: list[Subnet] = []
        for turn in range(1, _ROUNDS + 1):
            model = self._model()
            values = functools.partial(self._values, model=model)
            count = ask.trials * turn // _ROUNDS
            evolved = evolve(supernet, bounds, first[: ask.trials // 8], values, count, ask.seed)
            self._say(f"{self._want.target.name}: {len(evolved)} sub-networks evolved")
            if self._cost_is in _MODELLED:
                for subnet in self._spread(self._feasible(evolved, original, model), model, _AGAIN):
                    self._measure(subnet)
        model = self._model()
        random = first[: len(evolved)]
        for subnet in random:
            self._scores.of(subnet)
        self._say(f"{self._want.target.name}: {len(random)} sub-networks at random")
        chosen = self._spread(self._feasible([*evolved, *random, whole], original, model), model, ask.answers)
        answers, failed = self._built(chosen, original, model)
        write_front(self._folder, answers, self._want.recipe, goals, original)
        volumes = self._volumes(evolved, random, model)
        return TargetReport(
            name=self._want.target.name, target=self._want.target.to_dict(), limits=[str(limit) for limit in goals.limits],
            objectives=list(goals.objectives), notes=self._want.notes, original=original,
            measured=len(self._measured()), cost_error=model.error if model else None,
            cost_shares=model.shares(supernet.features(*whole)) if model else {},
            evolved=volumes[0], random=volumes[1], front=answers, failed=failed,
        )  # fmt: skip

    # ---- measuring ---------------------------------------------------------------------------------------------

    def _measure(self, subnet: Subnet) -> dict[str, float] | None:
        """Figures of a sub-network as it is built, without training; None where it cannot be built."""
        name = "speed " + json.dumps(subnet)
        if name not in self._lines.known:
            passes = (self._ask.training[0], *self._supernet.passes(*subnet)[:1], *self._ask.quick)
            try:
                found = self._apart.call("run", Point(passes, self._backend), Rung("speed", passes))["figures"]
            except TrialRefused:
                found = None
            except TrialFailed:
                return None
            self._lines.add(name, found)
        figures: dict[str, float] | None = self._lines.known[name]
        return figures

    def _measured(self) -> list[tuple[Subnet, float]]:
        found = []
        for name, figures in self._lines.known.items():
            if name.startswith("speed ") and figures and self._cost_is in figures:
                widths, off = json.loads(name.removeprefix("speed "))
                found.append(((tuple(widths), tuple(off)), figures[self._cost_is]))
        return found

    def _model(self) -> CostModel | None:
        if self._cost_is not in _MODELLED:
            return None
        return CostModel([(self._supernet.features(*subnet), ms) for subnet, ms in self._measured()])

    def _cost(self, subnet: Subnet, model: CostModel | None) -> float:
        if model is None:
            return self._supernet.costs(*subnet)["macs"]
        return max(model.predict(self._supernet.features(*subnet)), 1e-9)

    def _values(self, subnet: Subnet, model: CostModel | None) -> tuple[float, float]:
        score = self._scores.of(subnet)
        return (score if math.isfinite(score) else 1e9), math.log(self._cost(subnet, model))

    def _check_smallest(self, smallest: Subnet, original: dict[str, float]) -> None:
        """Raise BudgetError where no sub-network can keep a limit."""
        figures = self._measure(smallest) or self._supernet.costs(*smallest)
        for what, value in self._want.goals.violations(figures, original).items():
            if value > (_SLACK if what in _MODELLED else 1e-9):
                bound = self._want.goals.bound(what, original)
                raise BudgetError(
                    f"nas: the smallest sub-network is over the limit of {what} for {self._want.target.name}",
                    expected=f"at most {bound:.4g}",
                    got=f"{figures[what]:.4g}, with {self._ask.least:.0%} of the MACs",
                    way_out="allow more, or prune_channels, low_rank and quantize behind: fxopt search",
                )

    # ---- choosing ----------------------------------------------------------------------------------------------

    def _feasible(self, tried: list[Subnet], original: dict[str, float], model: CostModel | None) -> list[Subnet]:
        """Those that keep the limits as predicted."""
        found = []
        for subnet in dict.fromkeys(tried):
            figures = dict(self._supernet.costs(*subnet))
            if model is not None:
                figures[self._cost_is] = self._cost(subnet, model) / (1 + _SLACK)
            if all(v <= 1e-9 for v in self._want.goals.violations(figures, original).values()):
                found.append(subnet)
        return found

    def _spread(self, tried: list[Subnet], model: CostModel | None, count: int) -> list[Subnet]:
        """``count`` of the front of divergence and cost, evenly spaced in the logarithm of the cost."""
        values = [self._values(subnet, model) for subnet in tried]
        members = sorted(front(values), key=lambda i: values[i][1])
        if len(members) <= count:
            return [tried[i] for i in members]
        low, high = values[members[0]][1], values[members[-1]][1]
        chosen: list[int] = []
        for step in range(count):
            wanted = low + (high - low) * step / max(1, count - 1)
            left = [i for i in members if i not in chosen]
            chosen.append(min(left, key=lambda i: abs(values[i][1] - wanted)))
        return [tried[i] for i in sorted(chosen, key=lambda i: values[i][1])]

    def _volumes(self, evolved: list[Subnet], random: list[Subnet], model: CostModel | None) -> list[float]:
        values = [[self._values(s, model) for s in tried] for tried in (evolved, random)]
        every = [v for part in values for v in part if v[0] < 1e9]
        reference = [max((v[i] for v in every), default=0.0) + 1e-6 for i in range(2)]
        return [hypervolume(part, reference) for part in values]

    # ---- building ----------------------------------------------------------------------------------------------

    def _built(
        self, chosen: list[Subnet], original: dict[str, float], model: CostModel | None
    ) -> tuple[list[SubnetAnswer], list[Failed]]:
        """Each built and proved, then all timed side by side; those that keep the limits, the best metric first."""
        found, failed = {}, []
        for subnet in chosen:
            passes = (*self._ask.training, *self._supernet.passes(*subnet), *self._ask.behind)
            point = Point(passes, self._backend)
            name = "final " + digest_of(point)
            if name not in self._lines.known or not Path(self._lines.known[name]["kept"]).exists():
                try:
                    proof = self._supernet.proof(*subnet)
                    answer = self._apart.call("run", point, Rung("final", passes))
                except (TrialRefused, TrialFailed) as error:
                    failed.append(Failed(passes=passes, reason=str(error)))
                    continue
                self._lines.add(name, {**answer, "proof": proof})
            found[subnet] = (point, dict(self._lines.known[name]))
            self._check_proof(subnet, found[subnet][1]["proof"])
            self._say(f"{self._want.target.name}: {len(found)} of {len(chosen)} sub-networks built")
        kept = {digest_of(point): (answer["kept"], answer["backend"]) for point, answer in found.values()}
        times = self._apart.call("race", kept, _BLOCKS) if self._cost_is == "latency_ms" and kept else {}
        drops = self._apart.call("test", kept) if kept else {}
        answers: list[SubnetAnswer] = []
        for subnet, (point, answer) in found.items():
            figures, digest = answer["figures"], digest_of(point)
            if digest in times:
                figures["latency_ms"] = times[digest]["median"]
            answers.append(
                SubnetAnswer(
                    passes=point.passes, backend=answer["backend"], recipe="", trial=len(answers),
                    figures={k: v for k, v in figures.items() if math.isfinite(v)},
                    low_ms=times.get(digest, {}).get("low"), high_ms=times.get(digest, {}).get("high"),
                    held_out_drop=answer["held_out"], test_drop=drops.get(digest),
                    widths=subnet[0], off=subnet[1], divergence=self._scores.of(subnet), proof=answer["proof"],
                    predicted_cost=self._cost(subnet, model) if model else None,
                )
            )  # fmt: skip
        goals = self._want.goals
        answers = [a for a in answers if goals.feasible(a.figures, original)]
        answers.sort(key=lambda a: goals.values(a.figures))
        named = [a.model_copy(update={"recipe": f"front/{number:02}.toml"}) for number, a in enumerate(answers, 1)]
        return named, failed

    def _check_proof(self, subnet: Subnet, error: float) -> None:
        if not error <= _TOLERANCE:
            raise VerifyError(
                f"nas: the program of a sub-network is not the supernet's own: they differ by {error:.3g} in float64",
                expected=f"at most {_TOLERANCE:g}",
                got=f"widths {subnet[0]}, branches off {subnet[1]}",
            )
