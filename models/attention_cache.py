"""What models of transformers keep between tokens: keys and values handed to them and taken from them, tables of positions."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from fxopt.errors import UsageError

Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Of each layer its keys and values, [batch, heads, tokens, head dim]."""


def cache_argument(model: nn.Module) -> str:
    """What the cache is called among the arguments of ``model``; releases of transformers differ."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def layers_of(cache: Any) -> Layers:
    """Keys and values of each layer of a cache. Raises UsageError for one that holds anything else."""
    pairs = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in getattr(cache, "layers", ())]
    found = tuple((k, v) for k, v in pairs if isinstance(k, torch.Tensor) and isinstance(v, torch.Tensor))
    if not pairs or len(found) < len(pairs) or any(t.dim() != 4 for pair in found for t in pair):
        raise UsageError(
            f"the model keeps a {type(cache).__name__} between tokens, and not keys and values of each layer alone",
            way_out="a model of attention layers, such as llama, qwen3, gemma3_text or gpt2",
        )
    return found


def lengthen_tables(model: nn.Module, tokens: int) -> None:
    """Make tables of sinusoids that grow when they are too short, such as those of M2M-100 and XGLM, long enough at once.

    A graph cannot grow one, so that a capture would hold only for the sums of past and new tokens that the table has.
    """
    module: Any
    for module in model.modules():
        if all(hasattr(module, name) for name in ("make_weights", "offset", "embedding_dim", "padding_idx")):
            module.make_weights(tokens + module.offset, module.embedding_dim, module.padding_idx)
