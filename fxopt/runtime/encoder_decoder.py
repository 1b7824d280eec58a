"""Tokens from an encoder and a decoder, each an artifact of its own, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fxopt.backend.manifest import TensorInput
from fxopt.errors import UsageError
from fxopt.runtime.artifact import Artifact
from fxopt.runtime.generate import Prompts, Sampling, check_prompts, generate

Source = Sequence[Sequence[int]] | npt.NDArray[Any]
"""Token ids of each example, of any lengths; or features, an array with the shape that the encoder takes."""


class EncoderDecoder:
    """The two parts of a model that makes one sequence of another: translates, sums up, writes down what was said.

    They are built one by one, each by a recipe of its own, from what ``fxopt.models.seq2seq`` captures.
    Raises UsageError where the decoder does not take what the encoder gives.
    """

    def __init__(self, encoder: Artifact, decoder: Artifact) -> None:
        self.encoder, self.decoder = encoder, decoder
        gives, takes = encoder.manifest.outputs, decoder.manifest.tensors
        count = len(gives)
        self._state, memory, masks = takes[1 : 1 + count], takes[1 + count : 1 + 2 * count], takes[1 + 2 * count :]
        fits = len(decoder.manifest.outputs) == 1 + count == 1 + len(memory) and len(masks) < 2
        if not fits or len(takes[0].shape) != 2 or not all(map(_is_layer, self._state)):
            raise UsageError(
                "these are not the encoder and the decoder of one model: a decoder takes tokens, a state, and what the "
                f"encoder gives, {count} tensors",
                way_out="build both from fxopt.models.seq2seq.seq2seq, part='encoder' and part='decoder'",
            )
        for number, (fact, output) in enumerate(zip(memory, gives, strict=True)):
            sizes = [n for n in fact.shape if isinstance(n, int)]
            given = [n for n, size in zip(output.example, fact.shape, strict=False) if isinstance(size, int)]
            if (fact.dtype, sizes, len(fact.shape)) != (output.dtype, given, len(output.example)):
                raise UsageError(
                    f"output {number} of the encoder is not what the decoder takes as {fact.name!r}",
                    expected=f"{fact.dtype} {list(fact.shape)}",
                    got=f"{output.dtype} {list(output.example)}",
                    way_out="build both from the same model",
                )
        self._has_mask = bool(masks)

    def generate(
        self,
        source: Source,
        prompts: Prompts,
        max_new_tokens: int,
        *,
        stop: Sequence[int] = (),
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """The tokens that the decoder appends to the prompt of each source, at most ``max_new_tokens``.

        Sources of token ids are padded on the right and masked. Prompts are of one length: the token that the decoder
        starts with, and those that choose a language or a task. The rest is as in :meth:`fxopt.Artifact.generate`.

        Raises UsageError for a source or a prompt that does not fit; OptionError for options out of their range.
        """
        sampling = Sampling(temperature, top_k, top_p)
        inputs = self._padded(source)
        self._check(prompts, len(inputs[0]), max_new_tokens)
        read = self.encoder.run_arrays(self.encoder.arrays(*inputs))

        def step(ids: Any, _: Any, state: list[Any]) -> tuple[Any, list[Any]]:
            logits, *new = self.decoder.run_arrays([ids, *state, *read, *inputs[1:]])
            return logits, new

        return generate(step, self._empty(len(inputs[0])), prompts, max_new_tokens, stop, sampling, seed)

    def _padded(self, source: Source) -> tuple[npt.NDArray[Any], ...]:
        """What the encoder takes: the source, and a mask if it has one."""
        if not self._has_mask:
            return (np.asarray(source),)
        if not len(source) or not all(len(row) for row in source):
            raise UsageError("each source takes one token or more")
        longest = max(len(row) for row in source)
        ids, mask = np.zeros((len(source), longest), np.int64), np.zeros((len(source), longest), np.int64)
        for row, tokens in enumerate(source):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        return ids, mask

    def _check(self, prompts: Prompts, sources: int, most: int) -> None:
        manifest = self.decoder.manifest
        tokens = manifest.tensors[0].shape[1]
        positions = manifest.dims.get(str(tokens), (None, None))[1]
        check_prompts(prompts, most, manifest.outputs[0].example[-1], positions)
        if len(prompts) != sources:
            raise UsageError(f"{sources} sources take as many prompts, got {len(prompts)}")
        if len({len(prompt) for prompt in prompts}) > 1:
            raise UsageError(
                f"prompts of a decoder are of one length, got {sorted({len(prompt) for prompt in prompts})}",
                way_out="sources whose prompts are of one length, in a call each",
            )

    def _empty(self, batch: int) -> list[npt.NDArray[Any]]:
        """Keys and values [batch, heads, 0, head dim] of each layer before the first token."""
        shapes = [(batch, int(fact.shape[1]), 0, int(fact.shape[3])) for fact in self._state]
        return [np.zeros(shape, fact.dtype) for shape, fact in zip(shapes, self._state, strict=True)]


def _is_layer(fact: TensorInput) -> bool:
    """Whether an input is keys or values, [batch, heads, past, head dim]."""
    return [isinstance(size, int) for size in fact.shape] == [False, True, False, True]
