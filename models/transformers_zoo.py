"""Small models of transformers with random weights as workloads: ``transformers:TYPE``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import torch
from annotated_doc import Doc
from annotated_types import Ge
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.errors import OptionError, UnknownNameError
from fxopt.models.randomize import randomize
from fxopt.models.synthetic import synthetic_batch
from fxopt.models.vision_import import import_transformers
from fxopt.workload import Workload

SEED = 0
_SIDE = 64
_SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "d_ff", "n_inner", "ffn_dim"), 128),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 128),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_target_positions", "max_source_positions"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_key_value_heads": 2, "head_dim": 16, "d_kv": 16, "moe_intermediate_size": 32, "num_experts_per_tok": 2,
    "projection_dim": 32, "vocab_size": 256, "image_size": _SIDE, "embed_dim": 48, "window_size": 2, "num_mel_bins": 16,
    "max_length": 64, "rotary_dim": 8, "n_group": 1, "topk_group": 1, "use_cache": False,
}  # fmt: skip
"""Values by the name of a configuration's field. A field with a value for each stage is left to ``_STAGES``."""
_STAGES = {"depths": lambda v: min(v, 2), "hidden_sizes": lambda v: v // 4, "neck_hidden_sizes": lambda v: v // 4}


def transformers_workload(
    name: Annotated[str, Doc("The type of a model, as transformers names it.")],
    *,
    attention: Annotated[Literal["eager", "sdpa"], Doc("How attention is computed; None for transformers' own choice.")]
    | None = None,
    length: Annotated[int, Ge(1), Doc("Tokens of each example.")] = 16,
) -> Workload:
    """Any transformers architecture by model type, made small: bert, llama, vit, swin, t5, whisper, segformer.

    Two layers, or at most two blocks a stage, of width 64 with 4 heads (2 for keys and values where these may be fewer),
    256 tokens; made from the names of the configuration's fields. Weights are random from a fixed seed
    (:func:`fxopt.models.randomize.randomize`); the body without a head gives a tuple of tensors, and keeps no cache.
    ``attention`` is transformers' ``attn_implementation``, its own choice by default. Inputs are keywords, with a dynamic
    batch: ``input_ids`` int64 [N,length], ``pixel_values`` float32 [N,3,64,64], ``input_features`` or ``input_values``.
    There is no data.

    Raises UnknownNameError for a type that transformers does not have, UsageError without transformers, and, when the
    model is built, OptionError for one that does not run when it is made small in this way.
    """
    known = import_transformers().models.auto.modeling_auto.MODEL_MAPPING_NAMES
    if name not in known:
        raise UnknownNameError("transformers model type", name, known)
    build = functools.partial(_build, name, attention, length)
    return Workload(name=f"transformers:{name}", model=lambda: build()[0], inputs=lambda: ((), build()[1]))


def _build(name: str, attention: str | None, length: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model, and one example of what it takes."""
    transformers = import_transformers()
    options = {} if attention is None else {"attn_implementation": attention}
    with made_small(f"transformers:{name}"):
        config = small_config(name)
        model = transformers.AutoModel.from_config(config, **options).eval()
        model.register_forward_hook(_tensors)
        inputs = example_inputs(model, length)
        randomize(Called(model, inputs), (), seed=SEED)
    return model, {key: value[:1] for key, value in inputs.items()}


@contextlib.contextmanager
def made_small(spec: str) -> Iterator[None]:
    """Random weights from a fixed seed inside; OptionError, in the name of ``spec``, for an architecture that does not run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise OptionError(f"{spec} does not run when it is made small: {reason}") from error


def small_config(name: str, **options: Any) -> Any:
    """The configuration of a model type made small, with ``options`` as they are given."""
    transformers = import_transformers()
    return transformers.AutoConfig.for_model(name, **{**_small(transformers.CONFIG_MAPPING[name]()), **options})


def _small(config: Any) -> dict[str, Any]:
    """Options that make ``config`` small, those of the configurations inside it included."""
    fields = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(config)}
    options: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, (list, tuple)):
            if key in _STAGES:
                options[key] = [_STAGES[key](v) for v in value]
        elif key in _SMALL:
            options[key] = _SMALL[key]
        elif key.endswith("_token_id") and isinstance(value, int) and value >= _SMALL["vocab_size"]:
            options[key] = value % 8  # below the tokens that are drawn
    for key in config.sub_configs:
        inner = getattr(config, key, None)
        if inner is not None:
            options[key] = {"model_type": inner.model_type, **_small(inner)}
    return options


def example_inputs(model: Any, length: int) -> dict[str, torch.Tensor]:
    """Two examples: the main input alone if the model runs on it, else all that its signature has."""
    draw = functools.partial(torch.randint, 8, _SMALL["vocab_size"], (2, length))
    known = inspect.signature(model.forward).parameters
    made: dict[str, Callable[[], torch.Tensor]] = {
        "input_ids": draw, "decoder_input_ids": draw, "pixel_values": lambda: _images(model.config),
        "input_features": lambda: _sound(model.config), "input_values": lambda: _sound(model.config),
    }  # fmt: skip
    main = [model.main_input_name, *(key for key in known if key == "decoder_input_ids")]
    every = [key for key in known if key in made]
    error: Exception | None = None
    for keys in (main, every):
        try:
            inputs = {key: made[key]() for key in keys}
            with torch.no_grad():
                model(**inputs)
        except Exception as failed:
            error = error or failed
        else:
            return inputs
    raise error or ValueError("it takes no inputs")


def _tensors(module: nn.Module, args: Any, output: Any) -> tuple[torch.Tensor, ...]:
    """Plain tensors: a saved program with a class of transformers in it would need transformers to be loaded."""
    return tuple(pytree.tree_leaves(output))


def _images(config: Any) -> torch.Tensor:
    """float32 [2,3,64,64], or a clip [2,frames,3,64,64] where the configuration has a number of frames."""
    images = synthetic_batch(2, (getattr(config, "num_channels", 3), _SIDE, _SIDE))
    frames = getattr(config, "num_frames", None)
    # the one image that drifts by two pixels a frame
    return images if frames is None else torch.stack([images.roll(2 * t, -1) for t in range(frames)], 1)


def _sound(config: Any) -> torch.Tensor:
    """A spectrogram float32 [2,bins,time] where its length is fixed, [2,time,bins], or a wave [2,time]."""
    bins, positions = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    if bins is None:
        return torch.randn(2, 4000)
    return torch.randn(2, _SMALL["max_length"], bins) if positions is None else torch.randn(2, bins, 2 * positions)


class Called(nn.Module):
    """A model with its keywords filled in."""

    def __init__(self, model: nn.Module, kwargs: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.model, self.kwargs = model, kwargs

    def forward(self) -> Any:
        """What the model gives."""
        return self.model(**self.kwargs)
