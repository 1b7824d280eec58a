"""Tokens from an artifact of a causal language model, one at a time, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fxopt.backend.manifest import Interface
from fxopt.errors import OptionError, UsageError
from fxopt.runtime import treespec

Prompts = Sequence[Sequence[int]] | npt.NDArray[np.integer[Any]]
"""Token ids of each prompt; an array ``[prompts, tokens]`` for prompts of one length."""
Step = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], Any], tuple[Any, Any]]
"""``ids`` and ``mask``, int64 [batch, tokens], and the state; gives logits [batch, tokens, vocabulary] and the new state."""


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits: the most likely one at temperature 0.

    Otherwise by their softmax over ``temperature``, of the ``top_k`` most likely alone (0: of all), and of these the
    fewest whose probabilities sum to ``top_p`` or more (nucleus sampling; Holtzman et al. 2020).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise OptionError(f"takes temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {self}")

    def draw(self, logits: npt.NDArray[Any], random: np.random.Generator) -> npt.NDArray[np.int64]:
        """A token of each row of logits [batch, vocabulary]."""
        if self.temperature == 0:
            return logits.argmax(-1).astype(np.int64)
        return np.array([self._one(row.astype(np.float64), random) for row in logits], np.int64)

    def _one(self, logits: npt.NDArray[np.float64], random: np.random.Generator) -> int:
        order = np.argsort(-logits, kind="stable")[: self.top_k or None]
        scaled = (logits[order] - logits[order[0]]) / self.temperature
        shares = np.exp(scaled) / np.exp(scaled).sum()
        kept = int(np.searchsorted(shares.cumsum(), self.top_p)) + 1
        return int(random.choice(order[:kept], p=shares[:kept] / shares[:kept].sum()))


def generate(
    step: Step, state: Any, prompts: Prompts, most: int, stop: Sequence[int], sampling: Sampling, seed: int
) -> list[list[int]]:
    """Up to ``most`` tokens after each prompt, with the one of ``stop`` that ended it; ``state`` is an empty one.

    All prompts go through the model together, padded on the left; then a token of each in every step. The same seed
    gives the same tokens.
    """
    longest = max(map(len, prompts))
    ids, mask = np.zeros((len(prompts), longest), np.int64), np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    random = np.random.default_rng(seed)
    made: list[list[int]] = [[] for _ in prompts]
    going = np.ones(len(prompts), bool)
    for _ in range(most):
        logits, state = step(ids, mask, state)
        tokens = sampling.draw(np.asarray(logits)[:, -1], random)
        for row, token in enumerate(tokens.tolist()):
            if going[row]:
                made[row].append(token)
        going &= ~np.isin(tokens, stop)
        if not going.any():
            break
        ids, mask = tokens[:, None] * going[:, None], going[:, None].astype(np.int64)
    return made


@dataclass(frozen=True)
class Decoder:
    """What the interface of a causal language model says: ids and mask [batch, tokens], then a mask and caches of the past.

    ``batch``, ``tokens`` and ``past`` are the names of its dynamic dims.
    """

    interface: Interface
    batch: str
    tokens: str
    past: str

    @classmethod
    def of(cls, interface: Interface) -> Decoder:
        """Read off an interface. Raises UsageError for that of another kind of model."""
        told, outputs = interface.tensors, interface.outputs
        if len(told) == len(interface.inputs) == len(outputs) + 1 and len(told) > 3:
            ids, mask, seen, *caches = (tuple(fact.shape) for fact in told)
            dims = {*ids, *seen}
            named = all(isinstance(dim, str) for dim in dims) and len(ids) == len(seen) == 2 and len(dims) == 3
            same = [fact.dtype for fact in told[2:]] == [output.dtype for output in outputs[1:]]
            if named and same and ids == mask and ids[0] == seen[0] and all({*seen} <= {*cache} for cache in caches):
                return cls(interface, str(ids[0]), str(ids[1]), str(seen[1]))
        raise UsageError(
            "this model does not generate: it does not take tokens, a mask and a state, and give logits and the state",
            way_out="build a causal language model as fxopt.models.causal_lm.causal_lm captures it",
        )

    def empty(self, batch: int) -> Any:
        """The state before the first token, nested as the third argument is."""
        args, _ = treespec.assemble(self.interface.in_tree, [None, None, *self.empty_leaves(batch)])
        return args[2]

    def empty_leaves(self, batch: int) -> list[npt.NDArray[Any]]:
        """The arrays of the state before the first token, as a runner takes them after ids and mask."""
        sizes = {self.past: 0, self.batch: batch}
        return [
            np.zeros([sizes[n] if isinstance(n, str) else n for n in fact.shape], fact.dtype)
            for fact in self.interface.tensors[2:]
        ]

    def check(self, prompts: Prompts, most: int) -> None:
        """Raises UsageError as :func:`check_prompts` does."""
        positions = self.interface.dims.get(self.tokens, (None, None))[1]
        check_prompts(prompts, most, self.interface.outputs[0].example[-1], positions)


def check_prompts(prompts: Prompts, most: int, vocabulary: int, positions: int | None) -> None:
    """Raises UsageError for empty prompts, tokens that the model does not have, and more than it has positions."""
    if not len(prompts) or not all(len(prompt) for prompt in prompts):  # an array has no truth of its own
        raise UsageError(
            "each prompt takes one token or more", way_out="begin with the model's token for the beginning"
        )
    for row, prompt in enumerate(prompts):
        if wrong := [token for token in prompt if not 0 <= token < vocabulary]:
            raise UsageError(f"prompt {row}: token {wrong[0]} is not one of the model's 0 to {vocabulary - 1}")
    if most < 1:
        raise UsageError(f"max_new_tokens takes 1 or more, got {most}")
    longest = max(map(len, prompts))
    if positions is not None and longest + most - 1 > positions:
        raise UsageError(
            f"{longest} tokens and {most} new ones are more than the {positions} positions of the model",
            way_out=f"max_new_tokens={max(positions - longest + 1, 0)}, or a shorter prompt",
        )
