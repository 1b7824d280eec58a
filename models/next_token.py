"""A text as data of a causal language model: windows of tokens, the next token of each, top-1 and perplexity."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn import functional as F

from fxopt.models.causal_lm import State
from fxopt.models.splits import halved, one_split
from fxopt.workload import Args, Split

Windows = Mapping[Split, torch.Tensor]
"""Per split: int64 [N, length + 1], tokens and the one after each."""


@dataclass(frozen=True)
class NextToken:
    """Data (see :class:`fxopt.workload.Data`) for :class:`fxopt.models.causal_lm.CausalLM`, called without a past.

    ``load`` returns windows of tokens and should be cached; ``empty`` gives the state without tokens for a batch of a
    size. Targets are the next tokens int64 [N, length], the loss is cross entropy.
    """

    load: Callable[[], Windows]
    empty: Callable[[int], State]
    metric: str = "next-token top-1"

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``((ids, mask, state), next_ids)``: as stored without a seed, else shuffled, the same for equal seeds."""
        windows = one_split(self.load(), split)
        if seed is not None:
            windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))]
        for some in windows.split(batch_size):
            ids = some[:, :-1].contiguous()
            yield (ids, torch.ones_like(ids), self.empty(len(ids))), some[:, 1:]

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Mean cross entropy in nats of logits [N, length, vocabulary], the first output, against next tokens int64."""
        return F.cross_entropy(_logits(output).flatten(0, 1), target.flatten())

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """Share of tokens, 0 to 1, that the model holds most likely."""
        hits = total = 0
        with torch.no_grad():
            for args, target in self.batches(split, batch_size=16):
                hits += int((_logits(model(*args)).argmax(-1) == target).sum())
                total += target.numel()
        return hits / total

    def perplexity(self, model: Callable[..., Any], split: Split = "test") -> float:
        """The exponential of the mean cross entropy: of how many equally likely tokens each is as hard to tell."""
        lost, total = 0.0, 0
        with torch.no_grad():
            for args, target in self.batches(split, batch_size=16):
                lost += float(self.loss(model(*args), target)) * target.numel()
                total += target.numel()
        return math.exp(lost / total)

    def half(self, index: Literal[0, 1]) -> NextToken:
        """The same data with every other window of the validation split."""
        return replace(self, load=functools.partial(halved, self.load, index))


def cut_windows(tokens: list[int], length: int) -> torch.Tensor:
    """Windows of ``length`` tokens, one after the other, each with the token that follows: int64 [N, length + 1]."""
    return torch.tensor(tokens, dtype=torch.int64).unfold(0, length + 1, length)


def _logits(output: Any) -> torch.Tensor:
    return torch.as_tensor(output[0])
