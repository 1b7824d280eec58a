"""A small causal language model, trained on the topics of Python's own help: a workload that needs no data set."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import torch
from annotated_doc import Doc

from fxopt.models.cache_codes import to_codes
from fxopt.models.causal_lm import CacheKind, CausalLM, State, causal_lm
from fxopt.models.next_token import NextToken, Windows, cut_windows
from fxopt.models.python_topics import topic_text
from fxopt.models.vision_import import import_transformers
from fxopt.models.weights import load_weights
from fxopt.workload import Workload

WEIGHTS = Path(__file__).parent / "demo_weights" / "small_lm.safetensors"
COMMAND = f"python -m fxopt.models.train small_lm --out {WEIGHTS}"
LENGTH = 128
"""Tokens of a window that the model is trained and judged on."""
_LAYERS, _HEADS, _HEAD_DIM = 3, 2, 32
"""Layers, heads of keys and values, and the width of a head."""


def small_lm(*, cache: Annotated[CacheKind, Doc("How keys and values are kept between tokens.")] = "float") -> Workload:
    """Python's own help, byte by byte: a trained Llama of 0.5 M parameters, with a cache and `generate`.

    A token is a byte of UTF-8. Input and output are those of :class:`fxopt.models.causal_lm.CausalLM`, up to 256 tokens; the
    metric is the share of next tokens that the model holds most likely, in windows of 128. The text is that of the Python in
    use (:func:`fxopt.models.python_topics.topic_text`). The model needs transformers (UsageError without it), and raises
    RecipeError where its weights file is missing. ``cache='int8'`` is that of :func:`fxopt.models.causal_lm.causal_lm`.
    """
    data = NextToken(topic_windows, functools.partial(empty_state, cache=cache))
    return causal_lm(_trained, name="small_lm", data=data, cache=cache)


def lm_net() -> CausalLM:
    """The untrained model, initialised from torch's global generator."""
    transformers = import_transformers()
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=224,
        num_hidden_layers=_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=_HEADS,
        head_dim=_HEAD_DIM,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
    )
    return CausalLM(transformers.AutoModelForCausalLM.from_config(config))


@functools.cache
def topic_windows() -> Windows:
    """The three splits of the text as bytes. Raises DataError as :func:`topic_text` does."""
    return {split: cut_windows(list(text.encode()), LENGTH) for split, text in topic_text().items()}


def empty_state(batch: int, cache: CacheKind = "float") -> State:
    """The state of the model before the first token."""
    none = torch.zeros(batch, _HEADS, 0, _HEAD_DIM)
    held = to_codes(none) if cache == "int8" else none
    return torch.zeros(batch, 0, dtype=torch.int64), ((held, held),) * _LAYERS


def _trained() -> torch.nn.Module:
    net = lm_net()
    load_weights(WEIGHTS, net, command=COMMAND)
    return net.model
