"""Zero single weights: the least important of all, or of every few neighbours."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_doc import Doc
from annotated_types import Ge, Lt

from fxopt import Context, Pass, Program
from fxopt.errors import OptionError, UnknownNameError
from fxopt.pass_manager.pass_base import Kind
from fxopt.passes.common.lowest import lowest, lowest_in_groups, summed_groups
from fxopt.passes.common.masks import store_masked
from fxopt.passes.common.stored_weights import LayerWeight, layer_weights, names_any
from fxopt.passes.prune.importance.gradients import mean_gradients
from fxopt.support.options import With


@dataclass(frozen=True)
class sparsify(Pass):
    """Zero single weights of convolutions, linears and matrix products (unstructured or N:M sparsity).

    ``ratio`` is the share of weights that are zero afterwards, including those that were zero before: round(ratio · n)
    of all together (``scope='global'``) or of each layer. ``by`` says which go first: ``magnitude``, the smallest |w|
    (Han et al. 2015, section 3); ``movement``, the smallest -w · dL/dw, those that training moves towards zero (Sanh et
    al. 2020, section 4), here of the gradients over 64 training examples of the workload, not summed over a training
    run, so it is for small steps of a model in training: once that has converged, it takes important weights too;
    ``random``, by ``seed``. Of equal ones the first goes.

    ``pattern='2:4'`` keeps two of every four neighbouring input channels instead, at each output channel and kernel
    position (Mishra et al. 2021; any N:M). It sets the share itself: leave ``ratio`` and ``scope`` out. A layer whose
    inputs, within its group, are no multiple of M is skipped.

    ``only`` and ``keep`` name weights or modules, with wildcards, that alone may be zeroed, or may not. A weight that
    is read in several places, also by an embedding, is one weight and stays one. Raises UnknownNameError for a pattern
    that names no weight, PassError for a weight that is quantized or not finite, DataError without usable data.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[4,8]
        %b = param "fc.bias" : f32[4]
        %y = aten.linear(%x, %w, %b)
        return %y
    after:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[4,8]
        %b = param "fc.bias" : f32[4]
        %y = aten.linear(%x, %w, %b)
        return %y

    The graph stays as it is: 16 of the 32 weights are zero.
    """

    name: ClassVar[str] = "sparsify"
    kind: ClassVar[Kind] = "approx"

    ratio: Annotated[float, Ge(0), Lt(1), Doc("Share of weights that are zero afterwards.")] = 0.5
    by: Annotated[Literal["magnitude", "movement", "random"], Doc("Which weights go first.")] = "magnitude"
    scope: Annotated[
        Literal["global", "layer"], Doc("Whether the share is of all weights together, or of each layer.")
    ] = "global"
    pattern: Annotated[Literal["", "2:4"] | str, Doc("N:M sparsity, such as '2:4', instead of a ratio.")] = ""
    keep: Annotated[tuple[str, ...], Doc("Weights or modules that stay as they are, with wildcards.")] = ()
    only: Annotated[tuple[str, ...], Doc("Weights or modules that alone may change, with wildcards.")] = ()
    seed: Annotated[int, Ge(0), With(by="random"), Doc("Seed of a random choice.")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pattern:
            return
        kept, size = self._kept_of()
        if not 0 < kept < size:
            raise OptionError(
                f"sparsify: pattern is N:M with 0 < N < M, such as '2:4' for two weights kept of every four; "
                f"got {self.pattern!r}"
            )
        if self.options().keys() & {"ratio", "scope"}:
            raise OptionError(
                f"sparsify: pattern {self.pattern!r} zeroes {size - kept} of every {size} weights; "
                "leave ratio and scope out, or the pattern"
            )

    def _kept_of(self) -> tuple[int, int]:
        match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", self.pattern, re.ASCII)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def run(self, program: Program, context: Context = Context()) -> None:
        """Store the chosen layers' weights anew, with zeros."""
        chosen = self._chosen(program)
        scores = self._scores(program, context, chosen)
        zero: dict[str, torch.Tensor] = {}
        if self.pattern:
            kept, size = self._kept_of()
            for weight, score in zip(chosen, scores, strict=True):
                groups = summed_groups(weight, size)
                if isinstance(groups, str):
                    program.skip(weight.readers[0].layer, f"pattern={self.pattern!r}: {groups}")
                else:
                    zero[weight.names[0]] = lowest_in_groups(score, groups, size - kept)
        else:
            pairs = list(zip(chosen, scores, strict=True))
            for part in [pairs] if self.scope == "global" and pairs else [[pair] for pair in pairs]:
                sizes = [len(score) for _, score in part]
                lows = lowest(torch.cat([score for _, score in part]), round(self.ratio * sum(sizes)))
                zero |= zip((weight.names[0] for weight, _ in part), lows.split(sizes), strict=True)
        shapes = {weight.names[0]: weight.tensor.shape for weight in chosen}
        store_masked(program, {name: ~low.reshape(shapes[name]) for name, low in zero.items() if bool(low.any())})

    def _chosen(self, program: Program) -> list[LayerWeight]:
        """The weights to choose from; every other layer gets its reason."""
        weights, declined = layer_weights(program)
        for layer, reason in declined.items():
            program.skip(layer, reason)
        known = {name for weight in weights for name in weight.names}
        for pattern in (*self.keep, *self.only):
            if not names_any((pattern,), known):
                raise UnknownNameError(
                    "weight of a layer", pattern, known, "keep and only name weights or their modules"
                )
        chosen = []
        for weight in weights:
            left_alone = self._left_alone(program, weight)
            if left_alone:
                program.skip(weight.readers[0].layer, left_alone)
            else:
                chosen.append(weight)
        return chosen

    def _left_alone(self, program: Program, weight: LayerWeight) -> str | None:
        named = lambda patterns: names_any(patterns, weight.names)  # noqa: E731
        layer, name = weight.readers[0].layer, weight.names[0]
        if self.only and not named(self.only):
            return f"only={self.only!r} does not name its weight"
        if named(self.keep):
            return f"kept as it is by keep={self.keep!r}"
        if weight.quantized:
            raise program.fail(layer, f"the weight {name!r} is quantized already; sparsify before quantize")
        if not weight.tensor.is_floating_point() or not weight.tensor.numel():
            return f"its weight is {weight.tensor.dtype} of {weight.tensor.numel()} elements"
        if not bool(weight.tensor.isfinite().all()):
            raise program.fail(layer, f"the weight {name!r} holds NaN or infinity")
        return None

    def _scores(self, program: Program, context: Context, chosen: list[LayerWeight]) -> list[torch.Tensor]:
        """A score [n] for every element of the weights, lower for less important; those that are zero go first."""
        weights = [weight.tensor.detach().flatten() for weight in chosen]
        weights = [w.to(torch.promote_types(w.dtype, torch.float32)) for w in weights]
        if self.by == "magnitude":
            return [w.abs() for w in weights]
        if self.by == "random":
            scores = [_random(len(w), f"{self.seed} {c.names[0]}") for w, c in zip(weights, chosen, strict=True)]
        elif weights:
            who = "sparsify(by='movement')"
            slopes = mean_gradients(program, context.workload, who, seed=self.seed, device=context.device)
            scores = [-w * slopes[c.names[0]].flatten() for w, c in zip(weights, chosen, strict=True)]
        else:
            scores = []
        return [score.masked_fill(w == 0, -torch.inf) for w, score in zip(weights, scores, strict=True)]


def _random(count: int, seed: str) -> torch.Tensor:
    """Random scores [count], not of the bare seed, from which the weights themselves may have been initialised."""
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(count, generator=generator)
