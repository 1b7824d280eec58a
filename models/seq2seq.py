"""Encoder-decoders of transformers as two programs: one reads the source, the other makes tokens of what it read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from annotated_doc import Doc
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.errors import UnknownNameError, UsageError, last_line
from fxopt.frontend.capture import capture
from fxopt.ir.dead_code import drop_unused_modules, remove_dead
from fxopt.ir.program import Program
from fxopt.models.attention_cache import Layers, cache_argument, layers_of, lengthen_tables
from fxopt.models.randomize import randomize
from fxopt.models.transformers_zoo import SEED, Called, example_inputs, made_small, small_config
from fxopt.models.vision_import import import_transformers
from fxopt.workload import Data, Workload

Part = Literal["encoder", "decoder"]
_TOKENS, _PAST, _SOURCE = 4, 5, 6
"""Sizes of the example: unequal, so that no dim is taken for another."""


class Encoder(nn.Module):
    """Reads the source: gives keys and values of each cross-attention of the decoder, [batch, heads, source, head dim].

    Call: ``source`` int64 [batch, source], and ``mask`` int64 [batch, source], 0 for padding; or features alone, float
    [batch, bins, frames], of a model for sound. That decoders project the source themselves is no part of the decoder
    here, so that it is done once, and its weights are in one artifact.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self._cache = model, cache_argument(model)

    def forward(self, source: torch.Tensor, mask: torch.Tensor | None = None) -> Layers:
        """Keys and values of each layer of the decoder."""
        model: Any = self.model
        masked = {} if mask is None else {"attention_mask": mask}
        read = model.get_encoder()(source, **masked)
        first = torch.zeros(source.shape[0], 1, dtype=torch.int64, device=source.device)
        cache = _cache((), ())
        model(decoder_input_ids=first, encoder_outputs=read, use_cache=True, **{self._cache: cache}, **masked)
        return layers_of(cache.cross_attention_cache)


class Decoder(nn.Module):
    """Makes tokens of a source that was read.

    Call: ``ids`` int64 [batch, tokens]; ``state``, keys and values of each layer for the tokens before, [batch, heads, past,
    head dim], of no tokens at first; ``memory``, what :class:`Encoder` gives; and the ``mask`` that it got, if it got one.
    Gives logits float [batch, tokens, vocabulary], and the state with the new tokens in it.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        """``example`` is what the encoder of the model gives for any source."""
        super().__init__()
        self.model, self._cache = model, cache_argument(model)
        self._output, self._width = type(example), example[0].shape[-1]

    def forward(
        self, ids: torch.Tensor, state: Layers, memory: Layers, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Layers]:
        """Logits of the new tokens, and the state with them in it."""
        model: Any = self.model
        cache, keys = _cache(state, memory), memory[0][0]
        # of what the encoder gave nothing but its sizes is read, since the keys and values made from it are at hand
        read = self._output(last_hidden_state=keys.new_zeros(keys.shape[0], keys.shape[2], self._width))
        seen = ids.new_ones(ids.shape[0], state[0][0].shape[2] + ids.shape[1])
        options = {} if mask is None else {"attention_mask": mask}
        out = model(
            decoder_input_ids=ids, decoder_attention_mask=seen, encoder_outputs=read, use_cache=True,
            **{self._cache: cache}, **options,
        )  # fmt: skip
        return out.logits, layers_of(cache.self_attention_cache)


def _cache(state: Layers, memory: Layers) -> Any:
    """A cache of transformers of the tokens before, and of the source."""
    transformers = import_transformers()
    caches = transformers.DynamicCache(), transformers.DynamicCache()
    for cache, layers in zip(caches, (state, memory), strict=True):
        for i, (keys, values) in enumerate(layers):
            cache.update(keys, values, i)
    return transformers.EncoderDecoderCache(*caches)


def seq2seq(
    model: Callable[[], nn.Module],
    inputs: Callable[[], torch.Tensor],
    part: Part,
    *,
    name: str = "seq2seq",
    data: Data | None = None,
) -> Workload:
    """The workload of one of the two parts of an encoder-decoder of transformers.

    ``model`` gives a model with its weights, such as an ``AutoModelForSeq2SeqLM`` or ``AutoModelForSpeechSeq2Seq``;
    ``inputs`` an example of its source with a batch of two: token ids int64 [2, source], whose length varies then, or
    features, whose shape does not. The parts are :class:`Encoder` and :class:`Decoder` around the model. Batch, tokens and
    past vary, up to the configuration's number of positions. An artifact of each together are an
    :class:`fxopt.EncoderDecoder`, which generates.

    Raises UsageError, when the model is built, for one that is no encoder-decoder of transformers.
    """
    made = functools.cache(lambda: _wrapped(model().eval(), inputs(), part))
    return Workload(
        name=f"{name}, {part}",
        model=lambda: made()[0],
        inputs=lambda: (made()[1], {}),
        program=lambda: _captured(*made()),
        data=data,
    )


def _captured(module: nn.Module, example: tuple[Any, ...]) -> Program:
    """The program of a part, without what the other computes: checks of dtypes keep it alive in what torch.export gives."""
    program = capture(module, example, dynamic=_dims(module, example))
    remove_dead(program)
    drop_unused_modules(program.module, set(program.tensors()))
    program.module.recompile()
    return program


def _wrapped(model: Any, source: torch.Tensor, part: Part) -> tuple[nn.Module, tuple[Any, ...]]:
    """The module of a part, and its example."""
    if (most := _positions(model)) is not None:
        lengthen_tables(model, 2 * most)
    masks = () if source.is_floating_point() else (torch.ones_like(source),)
    encoder, ids = Encoder(model).eval(), torch.arange(_PAST + _TOKENS).repeat(len(source), 1) + 1
    try:
        with torch.no_grad():
            memory = encoder(source, *masks)
            decoder = Decoder(model, model.get_encoder()(source)).eval()
            empty = pytree.tree_map(lambda t: t[:, :, :0], memory)
            _, state = decoder(ids[:, :_PAST].contiguous(), empty, memory, *masks)
    except (TypeError, AttributeError) as error:
        raise UsageError(
            f"{type(model).__name__} is no encoder-decoder of transformers: {last_line(error)}",
            way_out="AutoModelForSeq2SeqLM.from_config(config), or from_pretrained(folder)",
        ) from error
    if part == "encoder":
        return encoder, (source, *masks)
    return decoder, (ids[:, _PAST:].contiguous(), state, memory, *masks)


def _dims(module: nn.Module, example: tuple[Any, ...]) -> Any:
    """What may vary, in the form of ``torch.export``. Names and bounds stand in an artifact's manifest."""
    model: Any = module.model
    most = _positions(model) or 2**20
    batch = torch.export.Dim("batch", min=1)
    source = torch.export.Dim("source", min=1, max=getattr(model.config, "max_position_embeddings", None) or 2**20)
    if isinstance(module, Encoder):
        return ({0: batch},) if len(example) == 1 else ({0: batch, 1: source},) * 2
    tokens, past = torch.export.Dim("tokens", min=1, max=most), torch.export.Dim("past", min=0, max=most)
    state = pytree.tree_map(lambda _: {0: batch, 2: past}, example[1])
    if len(example) == 3:
        return {0: batch, 1: tokens}, state, pytree.tree_map(lambda _: {0: batch}, example[2])
    memory = pytree.tree_map(lambda _: {0: batch, 2: source}, example[2])
    return {0: batch, 1: tokens}, state, memory, {0: batch, 1: source}


def _positions(model: Any) -> int | None:
    """The most tokens that a decoder may have; None where its configuration has no such number."""
    names, config = ("max_target_positions", "max_position_embeddings"), getattr(model, "config", None)
    return next((most for name in names if (most := getattr(config, name, None))), None)


def seq2seq_workload(
    name: Annotated[str, Doc("The type of a model, as transformers names it.")],
    *,
    part: Annotated[Part, Doc("What is built: the encoder, or the decoder.")],
) -> Workload:
    """A part of a small encoder-decoder of transformers with random weights, by model type: t5, bart, marian, whisper.

    Made small as ``transformers:TYPE`` is. There is no data.

    Raises UnknownNameError for a type that transformers has no encoder-decoder of, UsageError without transformers, and,
    when the model is built, OptionError for one that does not run when it is made small.
    """
    made = functools.cache(lambda: _small(name))
    known = _known()
    if name not in known:
        raise UnknownNameError("encoder-decoder type", name, known)
    return seq2seq(lambda: made()[0], lambda: made()[1], part, name=f"seq2seq:{name}")


def _known() -> dict[str, str]:
    """Types of models, and the class of each that generates."""
    auto = import_transformers().models.auto.modeling_auto
    return {**auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, **auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES}


def _small(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The model, and an example of its source."""
    with made_small(f"seq2seq:{name}"):
        model = getattr(import_transformers(), _known()[name])(small_config(name, use_cache=True)).eval()
        inputs = example_inputs(model, 16)
        randomize(Called(model, inputs), (), seed=SEED)
    source = inputs[model.main_input_name]
    return model, source if source.is_floating_point() else source[:, :_SOURCE].contiguous()
