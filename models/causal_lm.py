"""Causal language models of transformers as one program for prompt and single tokens, its cache an input and an output."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from annotated_doc import Doc
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.errors import UnknownNameError, UsageError, last_line
from fxopt.frontend.capture import capture
from fxopt.models.attention_cache import Layers, cache_argument, layers_of
from fxopt.models.cache_codes import Coded, from_codes, joined, to_codes
from fxopt.models.randomize import randomize
from fxopt.models.transformers_zoo import SEED, Called, made_small, small_config
from fxopt.models.vision_import import import_transformers
from fxopt.workload import Data, Workload

State = tuple[torch.Tensor, tuple[tuple[Any, Any], ...]]
"""Mask of the tokens so far, int64 [batch, past], and keys and values of each layer, [batch, heads, past, head dim].

With a cache in int8 each of these is a pair, :data:`fxopt.models.cache_codes.Coded`.
"""
CacheKind = Literal["float", "int8"]
Example = tuple[torch.Tensor, torch.Tensor, State]
_EXAMPLE = 4
"""Tokens in the example, and as many in its cache: sizes at which no dim is taken for a constant."""


class CausalLM(nn.Module):
    """A causal model of transformers whose cache is handed in and out.

    Call: ``ids`` int64 [batch, tokens]; ``mask`` int64 [batch, tokens], 0 for padding; ``state`` as :data:`State`, with
    no tokens in it at first. Gives logits float [batch, tokens, vocabulary], and the state with the new tokens in it.
    Positions are counted over the mask, so that prompts of different lengths are padded on the left. With ``cache='int8'``
    a token's keys and values are rounded when it has been read: those that come with it still see them in float.
    """

    def __init__(self, model: nn.Module, cache: CacheKind = "float") -> None:
        super().__init__()
        self.model, self.coded = model, cache == "int8"
        self._cache = cache_argument(model)
        self._counts = "position_ids" in inspect.signature(model.forward).parameters

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Logits of the new tokens, and the state with them in it."""
        seen, layers = state
        seen = torch.cat([seen, mask], 1)
        cache = import_transformers().DynamicCache()
        for i, (keys, values) in enumerate(layers):
            cache.update(*(map(from_codes, (keys, values)) if self.coded else (keys, values)), i)
        options: dict[str, Any] = {self._cache: cache, "use_cache": True}
        if self._counts:
            options["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(input_ids=ids, attention_mask=seen, **options)
        new = layers_of(out.past_key_values)
        return out.logits, (seen, self._rounded(layers, new) if self.coded else new)

    def _rounded(self, past: tuple[tuple[Coded, Coded], ...], new: Layers) -> tuple[tuple[Coded, Coded], ...]:
        """The codes of the tokens before, and of those that the layers of the cache have besides."""
        return tuple(
            (_appended(keys, new_keys), _appended(values, new_values))
            for (keys, values), (new_keys, new_values) in zip(past, new, strict=True)
        )


def _appended(past: Coded, values: torch.Tensor) -> Coded:
    return joined(past, to_codes(values[:, :, past[0].shape[2] :]))


def causal_lm(
    model: Callable[[], nn.Module], *, name: str = "causal_lm", data: Data | None = None, cache: CacheKind = "float"
) -> Workload:
    """The workload of a causal language model of transformers, to be built once for prompts and single tokens alike.

    ``model`` gives an ``AutoModelForCausalLM`` with its weights; what is captured is :class:`CausalLM` around it, with
    dynamic batch, tokens, and past, up to the configuration's ``max_position_embeddings``. An artifact of it has
    :meth:`fxopt.Artifact.generate`. ``data``, if there is any, calls models as :class:`CausalLM` says. ``cache='int8'`` keeps
    keys and values as int8 with a scale for each token of each head: about a quarter of the memory.

    Raises UsageError, when the model is built, for one that is no causal language model of attention layers.
    """
    made = functools.cache(lambda: _wrapped(model(), cache))
    return Workload(
        name=name,
        model=lambda: made()[0],
        inputs=lambda: (made()[1], {}),
        program=lambda: capture(*made(), dynamic=_dims(*made())),
        data=data,
    )


def _wrapped(model: nn.Module, kind: CacheKind) -> tuple[CausalLM, Example]:
    """The module, and its example: a few tokens after as many in the cache."""
    ids = torch.arange(2 * _EXAMPLE).view(2, _EXAMPLE) + 1
    model = model.eval()
    try:
        with torch.no_grad():
            cache = layers_of(model(input_ids=ids, use_cache=True).past_key_values)
    except (TypeError, AttributeError) as error:
        raise UsageError(
            f"{type(model).__name__} is no causal language model of transformers: {last_line(error)}",
            way_out="AutoModelForCausalLM.from_config(config), or from_pretrained(folder)",
        ) from error
    state = tuple((to_codes(keys), to_codes(values)) for keys, values in cache) if kind == "int8" else cache
    return CausalLM(model, kind), (ids, torch.ones_like(ids), (torch.ones_like(ids), state))


def _dims(module: CausalLM, example: Example) -> Any:
    """What may vary, in the form of ``torch.export``. Names and bounds stand in an artifact's manifest."""
    config: Any = module.model.config
    most = getattr(config.get_text_config(), "max_position_embeddings", None) or 2**20
    batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=1, max=most)
    past = torch.export.Dim("past", min=0, max=most)
    cache = pytree.tree_map(lambda _: {0: batch, 2: past}, example[2][1])
    return ({0: batch, 1: tokens}, {0: batch, 1: tokens}, ({0: batch, 1: past}, cache))


def causal_lm_workload(
    name: Annotated[str, Doc("The type of a model, as transformers names it.")],
    *,
    cache: Annotated[CacheKind, Doc("How keys and values are kept between tokens.")] = "float",
) -> Workload:
    """A small causal language model of transformers with random weights, by model type: llama, qwen3, gemma3_text, gpt2.

    Made small as ``transformers:TYPE`` is: two layers of width 64, 256 tokens, 64 positions; there is no data.
    ``cache='int8'`` has a scale for each token of each head.

    Raises UnknownNameError for a type that transformers has no causal language model of, UsageError without transformers,
    and, when the model is built, OptionError for one that does not run when it is made small, UsageError for one whose
    cache is not keys and values.
    """
    known = import_transformers().models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if name not in known:
        raise UnknownNameError("causal language model type", name, known)
    return causal_lm(functools.partial(_small, name), name=f"causal_lm:{name}", cache=cache)


def _small(name: str) -> nn.Module:
    transformers = import_transformers()
    with made_small(f"causal_lm:{name}"):
        model: nn.Module = transformers.AutoModelForCausalLM.from_config(small_config(name, use_cache=True)).eval()
        randomize(Called(model, {"input_ids": torch.randint(8, 200, (2, 16))}), (), seed=SEED)
    return model
