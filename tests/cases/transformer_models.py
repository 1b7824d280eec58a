"""Transformers of torchvision, timm and transformers, tiny, with norms whose weights and biases are not the initial ones.

::

    python tests/cases/transformer_models.py > docs/theory/streams-by-model.md   # writes the table of what is proved
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxopt import Pipeline, Program, capture
from fxopt.ir.cost import cost
from fxopt.models.vision_import import import_timm, import_torchvision, import_transformers
from fxopt.pass_manager.step import StepResult
from fxopt.testing.small_workload import small_workload

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]
MODELS: dict[str, Callable[[], Built]] = {}
_IDS, _PIXELS = 64, 16


def _model(build: Callable[[], Built]) -> Callable[[], Built]:
    def seeded() -> Built:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module, inputs = build()
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    _redraw(name, parameter)
            return module.eval(), inputs

    MODELS[build.__name__.removeprefix("_")] = seeded
    return seeded


def _redraw(name: str, parameter: torch.Tensor) -> None:
    """No weight is the same everywhere, as it is at first in norms, layer scales, tokens and biases."""
    leaf = name.rpartition(".")[2]
    if (parameter.dim() == 1 and leaf in ("weight", "gamma", "g", "lambda1", "lambda2")) or "layer_scale" in name:
        parameter.uniform_(0.5, 1.5)
    elif parameter.dim() == 1 or (parameter.numel() > 1 and float(parameter.std()) < 0.05):
        parameter.normal_(0, 0.3)


class _Named(nn.Module):
    """A model of transformers with inputs by name, which gives some of its results."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], result: str) -> None:
        super().__init__()
        self.model, self.names, self.result = model, names, result

    def forward(self, *args: torch.Tensor) -> Any:
        return getattr(self.model(**dict(zip(self.names, args, strict=True))), self.result)


class _Pooled(nn.Module):
    """A sentence encoder: ids int64 [N,T] and mask int64 [N,T] -> mean of the tokens float32 [N,width]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        mask = mask[..., None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def _ids(length: int = 12) -> torch.Tensor:
    return torch.randint(4, _IDS, (2, length))


def _images(size: int = _PIXELS) -> tuple[torch.Tensor, ...]:
    return (torch.randn(2, 3, size, size),)


_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": _IDS,
    "max_position_embeddings": 32, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _of(
    config: str, model: str, names: tuple[str, ...], result: str, inputs: tuple[torch.Tensor, ...], **options: Any
) -> Built:
    transformers = import_transformers()
    made = getattr(transformers, model)(getattr(transformers, config)(**options))
    return _Named(made, names, result), inputs


@_model
def _vit_torchvision() -> Built:
    import_torchvision()
    from torchvision.models.vision_transformer import VisionTransformer

    options = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 10}
    return VisionTransformer(image_size=_PIXELS, patch_size=4, **options), _images()


@_model
def _vit_with_registers() -> Built:
    """Class and register tokens, layer scale, a mean of the tokens with a norm of its own."""
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": _PIXELS, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
    return VisionTransformer(**sizes, reg_tokens=2, init_values=0.1, global_pool="avg"), _images()


@_model
def _vit_with_qk_norm() -> Built:
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": _PIXELS, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
    return VisionTransformer(**sizes, qk_norm=True), _images()


@_model
def _vit_with_parallel_blocks() -> Built:
    import_timm()
    from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer

    sizes = {"img_size": _PIXELS, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
    return VisionTransformer(**sizes, block_fn=ParallelThingsBlock, init_values=0.1), _images()


@_model
def _deit() -> Built:
    import_timm()
    from timm.models.deit import VisionTransformerDistilled

    sizes = {"img_size": _PIXELS, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
    return VisionTransformerDistilled(**sizes), _images()


@_model
def _swin() -> Built:
    import_torchvision()
    from torchvision.models.swin_transformer import SwinTransformer

    sizes = {"patch_size": [2, 2], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [2, 2]}
    return SwinTransformer(**sizes, num_classes=10), _images()


@_model
def _swin_v2() -> Built:
    import_torchvision()
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    sizes = {"patch_size": [2, 2], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [2, 2]}
    blocks = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return SwinTransformer(**sizes, **blocks, num_classes=10), _images()


@_model
def _convnext() -> Built:
    import_torchvision()
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=10), _images(32)


@_model
def _bert() -> Built:
    return _of("BertConfig", "BertModel", ("input_ids", "attention_mask"), "last_hidden_state",
               (_ids(), torch.ones(2, 12, dtype=torch.int64)), **_SIZES)  # fmt: skip


@_model
def _minilm() -> Built:
    transformers = import_transformers()
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 8:] = 0
    return _Pooled(transformers.BertModel(transformers.BertConfig(**_SIZES), add_pooling_layer=False)), (_ids(), mask)


@_model
def _roberta() -> Built:
    return _of("RobertaConfig", "RobertaModel", ("input_ids",), "last_hidden_state", (_ids(),), **_SIZES)


@_model
def _modernbert() -> Built:
    options = {**_SIZES, "cls_token_id": 1, "sep_token_id": 2, "num_hidden_layers": 3, "local_attention": 4}
    return _of("ModernBertConfig", "ModernBertForMaskedLM", ("input_ids",), "logits", (_ids(),), **options)


@_model
def _gpt2() -> Built:
    options = {**_SIZES, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    return _of("GPT2Config", "GPT2LMHeadModel", ("input_ids",), "logits", (_ids(),), **options)


@_model
def _gpt_neox() -> Built:
    """Attention and perceptron in parallel, from two norms."""
    return _of("GPTNeoXConfig", "GPTNeoXForCausalLM", ("input_ids",), "logits", (_ids(),), **_SIZES)


@_model
def _t5() -> Built:
    options = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": _IDS, "use_cache": False,
               "decoder_start_token_id": 0}  # fmt: skip
    names = ("input_ids", "decoder_input_ids")
    return _of("T5Config", "T5ForConditionalGeneration", names, "logits", (_ids(), _ids(6)), **options)


@_model
def _whisper() -> Built:
    options = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "num_mel_bins": 8,
               "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_source_positions": 16,
               "max_target_positions": 16, "vocab_size": _IDS, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1,
               "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
    names = ("input_features", "decoder_input_ids")
    return _of(
        "WhisperConfig", "WhisperForConditionalGeneration", names, "logits", (torch.randn(2, 8, 32), _ids(6)), **options
    )


@_model
def _llama() -> Built:
    options = {**_SIZES, "num_key_value_heads": 2}
    return _of("LlamaConfig", "LlamaForCausalLM", ("input_ids",), "logits", (_ids(),), **options)


@_model
def _qwen3() -> Built:
    options = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
    return _of("Qwen3Config", "Qwen3ForCausalLM", ("input_ids",), "logits", (_ids(),), **options)


@_model
def _gemma3() -> Built:
    options = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4}
    return _of("Gemma3TextConfig", "Gemma3ForCausalLM", ("input_ids",), "logits", (_ids(),), **options)


@_model
def _clip() -> Built:
    inner = {k: v for k, v in _SIZES.items() if k not in ("pad_token_id", "bos_token_id", "eos_token_id", "use_cache")}
    text = {**inner, "eos_token_id": 63, "bos_token_id": 1, "pad_token_id": 0}
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": _PIXELS,
              "patch_size": 4}  # fmt: skip
    options = {"text_config": text, "vision_config": vision, "projection_dim": 16}
    names = ("input_ids", "pixel_values")
    return _of("CLIPConfig", "CLIPModel", names, "logits_per_image", (_ids(), *_images()), **options)


PASSES = "layer_norm_to_rms_norm(matrices=1.0), rotate_stream(matrices=1.0)"
"""With matrices wherever they help, whatever they cost."""


@dataclass(frozen=True)
class Row:
    """What was done to a model: of so many norms these are RMS norms now, and these in a stream that was rotated."""

    norms: int
    turned: int
    rotated: int
    macs: float
    """Those behind over those before."""
    proofs: tuple[str, ...]
    reasons: tuple[str, ...]


def captured(name: str) -> Program:
    """A model's program, of fixed sizes."""
    module, inputs = MODELS[name]()
    return capture(module, inputs, dynamic=None)


def turned(program: Program) -> tuple[Program, Row]:
    """Run the passes, which are proved."""
    outcome = Pipeline.parse(PASSES).run(program, workload=small_workload(program))
    left = {name: sum(1 for _ in outcome.program.find(f"aten.{name}")) for name in ("layer_norm", "rms_norm")}
    return outcome.program, Row(
        norms=sum(left.values()),
        turned=left["rms_norm"],
        rotated=left["rms_norm"] - len(outcome.steps[-1].skips),
        macs=cost(outcome.program).macs / cost(program).macs,
        proofs=tuple(sorted({step.findings.proof or "none" for step in outcome.steps if step.changed})),
        reasons=_reasons(outcome.steps[-2:]),
    )


def _reasons(steps: Sequence[StepResult]) -> tuple[str, ...]:
    """One for each kind of place: by the pass and the line of the model, wherever its package is installed."""
    found = {
        (step.text.partition("(")[0], skip.source.rpartition("site-packages/")[2]): skip.reason
        for step in steps
        for skip in step.skips
    }
    return tuple(f"`{name}` at {source}: {reason}" for (name, source), reason in sorted(found.items()))


HEAD = """# Streams by model

What `layer_norm_to_rms_norm` and `rotate_stream` do to tiny models of torchvision, timm and transformers whose norms have
weights and biases: how many of the norms are RMS norms behind it, how many of these are in a stream that is in its principal
components, and the MACs. These runs may insert matrices for as many MACs as they like, `matrices=1`; by default it is 5 %, and
tiny models need a larger share than real ones. Every step is proved in float64, region by region (local), or end to end where
the model writes into memory. The test that runs them writes this page. [How it works](streams.md)

"""


def lines_of(name: str, row: Row) -> tuple[str, list[str]]:
    """The line of a model in the table, and its reasons."""
    cells = (f"`{name}`", f"{row.turned} of {row.norms}", str(row.rotated), f"{row.macs:.2f}", " and ".join(row.proofs))
    return f"| {' | '.join(cells)} |", [f"- `{name}`, {reason}" for reason in row.reasons]


def page(rows: dict[str, Row]) -> str:
    """The page of all models."""
    lines = [lines_of(name, row) for name, row in rows.items()]
    table = ["| model | RMS norms | rotated | MACs | proof |", "|---" * 5 + "|", *(line for line, _ in lines)]
    notes = [note for _, reasons in lines for note in reasons]
    return HEAD + "\n".join(table) + "\n\n## Why not\n\n" + "\n".join(notes) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page({name: turned(captured(name))[1] for name in MODELS}))
