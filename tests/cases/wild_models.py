"""Models that nobody here wrote, from packages on the registry: what makes each, small, and the shapes of its inputs.

Weights are random; nothing is downloaded.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Wild:
    """A model: ``make`` is ``module:callable``, called with ``options``; keywords by name, others by place.

    An input is a shape of floats, or ``(highest, shape)`` of integers below ``highest``; a plain value is given as it is.
    ``backends`` are those that it is built for in int8.
    """

    make: str
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    backends: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What makes it, with what tells it from others made so."""
        kind = next((str(v) for v in self.options.values() if isinstance(v, str)), "")
        return f"{self.make}({kind})" if kind else self.make

    def build(self) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        """The model in evaluation mode, with example arguments and keywords."""
        from fxopt.models.vision_import import import_torchvision, import_transformers

        package = self.make.partition(":")[0].partition(".")[0]
        import_transformers() if package in ("transformers", "diffusers") else import_torchvision()
        torch.manual_seed(0)
        module, _, made = self.make.partition(":")
        if package == "transformers" and made != "AutoConfig":
            model = _of_config(made, **self.options)
        else:
            found: Any = importlib.import_module(module)
            for part in made.split("."):
                found = getattr(found, part)
            model = found(**self.options)
        for part in model.modules():  # a batch norm that does nothing would hide a mistake
            if isinstance(getattr(part, "running_mean", None), torch.Tensor):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
        return model.eval(), tuple(map(_value, self.inputs)), {k: _value(v) for k, v in self.keywords.items()}


def _of_config(made: str, model_type: str, **options: Any) -> nn.Module:
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **options)
    return getattr(transformers, made).from_config(config)


def _value(given: Any) -> Any:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], tuple):
        return torch.randint(0, given[0], given[1])
    if isinstance(given, tuple):
        return torch.randn(given)
    return given


def _smp(name: str, encoder: str = "resnet18", **options: Any) -> Wild:
    backends = ("onnx", "openvino", "tvm") if name == "Unet" and encoder == "resnet18" else ()
    options = {"encoder_name": encoder, "encoder_weights": None, **options}
    return Wild(f"segmentation_models_pytorch:{name}", options, ((1, 3, 64, 64),), backends=backends)


def _monai(name: str, *shape: int, backends: tuple[str, ...] = (), **options: Any) -> Wild:
    return Wild(f"monai.networks.nets:{name}", options, (shape,), backends=backends)


def _timm(name: str, side: int = 64, backends: tuple[str, ...] = (), **options: Any) -> Wild:
    return Wild("timm:create_model", {"model_name": name, **options}, ((1, 3, side, side),), backends=backends)


_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 96}
_IDS = {"input_ids": (96, (1, 8))}


def _lm(kind: str, made: str = "AutoModelForCausalLM", **options: Any) -> Wild:
    return Wild(f"transformers:{made}", {"model_type": kind, **_TINY, **options}, (), {**_IDS, "use_cache": False})


def _text(kind: str, made: str = "AutoModelForSequenceClassification", **options: Any) -> Wild:
    return Wild(f"transformers:{made}", {"model_type": kind, **_TINY, **options}, (), _IDS)


_UNET = {
    "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
}  # fmt: skip
ALL = ("onnx", "openvino", "tvm")

MODELS = [
    *map(_smp, ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus")),
    _smp("UPerNet"),
    _smp("Segformer"),
    _smp("Unet", "mobilenet_v2"),
    _smp("Unet", "efficientnet-b0"),
    _smp("FPN", "mit_b0"),
    _smp("Unet", "timm-regnetx_002"),
    _smp("Unet", "densenet121", decoder_attention_type="scse"),
    _monai("UNet", 1, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2),
           num_res_units=2, backends=ALL),
    _monai("BasicUNet", 1, 1, 32, 32, 32, spatial_dims=3, in_channels=1, out_channels=2, features=(8, 8, 16, 16, 32, 8)),
    _monai("AttentionUnet", 1, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2)),
    _monai("SegResNet", 1, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=2, init_filters=8),
    _monai("DynUNet", 1, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=2, kernel_size=[3, 3, 3],
           strides=[1, 2, 2], upsample_kernel_size=[2, 2]),
    _monai("VNet", 1, 1, 32, 32, spatial_dims=2),
    _monai("HighResNet", 1, 1, 16, 16, spatial_dims=2, in_channels=1, out_channels=2),
    _monai("UNETR", 1, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=2, img_size=(32, 32), feature_size=8,
           hidden_size=48, mlp_dim=96, num_heads=4),
    _monai("SwinUNETR", 1, 1, 64, 64, spatial_dims=2, in_channels=1, out_channels=2, feature_size=12),
    _monai("ViT", 1, 1, 32, 32, spatial_dims=2, in_channels=1, img_size=(32, 32), patch_size=(8, 8), hidden_size=48,
           mlp_dim=96, num_layers=2, num_heads=4, classification=True),
    _monai("DenseNet121", 1, 1, 64, 64, spatial_dims=2, in_channels=1, out_channels=3),
    _monai("SENet154", 1, 3, 64, 64, spatial_dims=2, in_channels=3, num_classes=3),
    _monai("AutoEncoder", 1, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16), strides=(2, 2)),
    _monai("VarAutoEncoder", 1, 1, 32, 32, spatial_dims=2, in_shape=(1, 32, 32), out_channels=1, latent_size=8,
           channels=(8, 16), strides=(2, 2)),
    _monai("FlexibleUNet", 1, 3, 64, 64, in_channels=3, out_channels=2, backbone="efficientnet-b0"),
    _monai("MedNeXt", 1, 1, 64, 64, spatial_dims=2, in_channels=1, out_channels=2, init_filters=8),
    Wild("diffusers:UNet2DModel", {**_UNET, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
         "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}, ((1, 3, 16, 16), (1000, (1,)), None, False)),
    Wild("diffusers:UNet2DConditionModel", {**_UNET, "cross_attention_dim": 32, "attention_head_dim": 8,
         "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
         ((1, 4, 16, 16), (1000, (1,)), (1, 5, 32)), {"return_dict": False}),
    Wild("diffusers:AutoencoderKL", {"block_out_channels": (16, 32), "norm_num_groups": 8, "latent_channels": 4,
         "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
         ((1, 3, 32, 32),), {"return_dict": False}),
    Wild("diffusers:VQModel", {"block_out_channels": (16, 32), "norm_num_groups": 8, "num_vq_embeddings": 16,
         "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
         ((1, 3, 32, 32),), {"return_dict": False}),
    Wild("diffusers:DiTTransformer2DModel", {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
         "sample_size": 8, "in_channels": 4, "norm_num_groups": 8}, ((1, 4, 8, 8),),
         {"timestep": (1000, (1,)), "class_labels": (10, (1,)), "return_dict": False}),
    Wild("diffusers:AutoencoderTiny", {"encoder_block_out_channels": (16,) * 4, "decoder_block_out_channels": (16,) * 4},
         ((1, 3, 32, 32),), {"return_dict": False}),
    _timm("resnet10t", backends=ALL),
    _timm("mobilenetv3_small_050", backends=ALL),
    _timm("efficientnet_lite0"), _timm("ghostnet_050"), _timm("repvgg_a0"), _timm("regnety_002"), _timm("dla34"),
    _timm("hardcorenas_a"), _timm("fbnetc_100"), _timm("mixnet_s"), _timm("tinynet_e"), _timm("skresnet18"),
    _timm("eca_botnext26ts_256", 256), _timm("halonet26t", 256), _timm("lambda_resnet26t", 256), _timm("gernet_s"),
    _timm("nfnet_l0"), _timm("dm_nfnet_f0"), _timm("resnetv2_50x1_bit"), _timm("selecsls42b"), _timm("xception41", 96),
    _timm("mobilevit_xxs"), _timm("mobilevitv2_050"), _timm("edgenext_xx_small"), _timm("efficientformer_l1", 224),
    _timm("efficientvit_b0"), _timm("fastvit_t8"), _timm("mobileone_s0"), _timm("convnextv2_atto"), _timm("poolformer_s12"),
    _timm("caformer_s18"), _timm("convmixer_768_32", num_classes=10), _timm("mixer_s32_224", 224), _timm("gmlp_s16_224", 224),
    _timm("resmlp_12_224", 224), _timm("coat_tiny", img_size=64), _timm("pvt_v2_b0"), _timm("twins_svt_small"),
    _timm("deit_tiny_patch16_224", img_size=64), _timm("beit_base_patch16_224", img_size=64), _timm("cait_xxs24_224", 224),
    _timm("eva02_tiny_patch14_224", 56, img_size=56), _timm("tnt_s_legacy_patch16_224", 224), _timm("visformer_tiny", 224),
    _timm("maxvit_rmlp_pico_rw_256", 256), _timm("nest_tiny", 224), _timm("volo_d1_224", 224), _timm("hiera_tiny_224", 224),
    _timm("swinv2_cr_tiny_224", 224), _timm("focalnet_tiny_srf"), _timm("davit_tiny"), _timm("starnet_s1"), _timm("repvit_m0_9"),
    Wild("effdet.factory:create_model", {"model_name": "tf_efficientdet_lite0", "pretrained": False,
         "pretrained_backbone": False, "bench_task": ""}, ((1, 3, 128, 128),)),
    _lm("llama", num_key_value_heads=2),
    _lm("gpt2", n_embd=32, n_head=4, n_layer=2, n_positions=32),
    _lm("mistral", num_key_value_heads=2, head_dim=8),
    _lm("qwen2", num_key_value_heads=2),
    _lm("phi"),
    _lm("gemma", head_dim=8, num_key_value_heads=1),
    _lm("gpt_neox"),
    _lm("opt", ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=32),
    _lm("bloom", n_layer=2, n_head=4),
    _lm("mixtral", num_key_value_heads=2, num_local_experts=4),
    _lm("mamba", state_size=4),
    _lm("falcon"),
    _lm("codegen", n_embd=32, n_head=4, n_layer=2, rotary_dim=4, n_positions=32),
    _text("bert"),
    _text("roberta"),
    _text("distilbert", dim=32, hidden_dim=64, n_heads=4, n_layers=2),
    _text("albert", embedding_size=16),
    _text("electra", embedding_size=16),
    _text("deberta-v2"),
    _text("xlnet", d_model=32, n_head=4, n_layer=2, d_inner=64),
    _text("mpnet"),
    _text("fnet"),
    _text("squeezebert", q_groups=2, k_groups=2, v_groups=2, post_attention_groups=1, intermediate_groups=2,
          output_groups=2, embedding_size=32),
    Wild("transformers:AutoModel", {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
         "vocab_size": 96}, (), {**_IDS, "decoder_input_ids": (96, (1, 6)), "use_cache": False}),
    Wild("transformers:AutoModel", {"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
         "vocab_size": 96}, (), {**_IDS, "use_cache": False}),
    Wild("transformers:AutoModel", {"model_type": "wav2vec2", **_TINY, "conv_dim": (32, 32), "conv_kernel": (10, 3),
         "conv_stride": (5, 2), "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}, (),
         {"input_values": (1, 1600)}),
    Wild("transformers:AutoModelForImageClassification", {"model_type": "vit", **_TINY, "image_size": 32, "patch_size": 8}, (),
         {"pixel_values": (1, 3, 32, 32)}),
    Wild("transformers:AutoModelForImageClassification", {"model_type": "convnext", "depths": [1, 1, 1, 1],
         "hidden_sizes": [16, 32, 48, 64]}, (), {"pixel_values": (1, 3, 64, 64)}),
    Wild("transformers:AutoModelForSemanticSegmentation", {"model_type": "segformer", "depths": [1, 1, 1, 1],
         "hidden_sizes": [16, 32, 48, 64], "decoder_hidden_size": 32}, (), {"pixel_values": (1, 3, 64, 64)}),
    Wild("transformers:AutoModelForDepthEstimation", {"model_type": "dpt", **_TINY, "image_size": 32, "patch_size": 8,
         "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 16, 32, 32],
         "fusion_hidden_size": 16}, (), {"pixel_values": (1, 3, 32, 32)}),
    Wild("torchvision.models:mobilenet_v3_small", {"num_classes": 10}, ((1, 3, 64, 64),), backends=ALL),
    Wild("torchvision.models.optical_flow:raft_small", {}, ((1, 3, 128, 128), (1, 3, 128, 128))),
    Wild("vit_pytorch:ViT", {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "heads": 4,
         "mlp_dim": 64}, ((1, 3, 32, 32),), backends=ALL),
    Wild("vit_pytorch.simple_vit:SimpleViT", {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2,
         "heads": 4, "mlp_dim": 64}, ((1, 3, 32, 32),)),
    Wild("vit_pytorch.cct:CCT", {"img_size": 32, "embedding_dim": 32, "n_conv_layers": 1, "kernel_size": 3, "stride": 2,
         "padding": 1, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2, "num_classes": 5}, ((1, 3, 32, 32),)),
    Wild("torch_geometric.nn:GCN", {"in_channels": 8, "hidden_channels": 16, "num_layers": 2, "out_channels": 3},
         ((12, 8), (12, (2, 30)))),
    Wild("torch_geometric.nn:GraphSAGE", {"in_channels": 8, "hidden_channels": 16, "num_layers": 2, "out_channels": 3},
         ((12, 8), (12, (2, 30)))),
    Wild("torch_geometric.nn:GIN", {"in_channels": 8, "hidden_channels": 16, "num_layers": 2, "out_channels": 3},
         ((12, 8), (12, (2, 30)))),
    Wild("torch_geometric.nn:GAT", {"in_channels": 8, "hidden_channels": 16, "num_layers": 2, "out_channels": 3, "heads": 2},
         ((12, 8), (12, (2, 30)))),
]  # fmt: skip
