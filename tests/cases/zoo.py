"""torchvision's float models, built small and without downloads, for tests over all of them."""

from __future__ import annotations

import functools
from typing import Any

import torch


@functools.cache
def names() -> dict[str, str]:
    from fxopt.models.vision_import import import_torchvision

    models = import_torchvision().models
    names = [n for n in models.list_models() if not n.startswith("quantized_")]
    return {n: models.get_model_builder(n).__module__ for n in names}


DETECTORS = [name for name, module in names().items() if ".detection." in module]
OTHERS = [name for name in names() if name not in DETECTORS]
SMALLEST = {
    "alexnet", "convnext_tiny", "deeplabv3_mobilenet_v3_large", "densenet121", "efficientnet_b0", "efficientnet_v2_s",
    "fcn_resnet50", "googlenet", "inception_v3", "lraspp_mobilenet_v3_large", "maxvit_t", "mc3_18", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "mvit_v2_s", "r2plus1d_18", "r3d_18", "raft_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "s3d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin3d_t",
    "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2",
    "fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn", "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large",
}  # fmt: skip
"""One of each family."""


def shape(name: str) -> tuple[int, ...]:
    """One example, as small as the family allows."""
    module = names()[name]
    if name.startswith("mvit") or name == "s3d":
        return (1, 3, 16, 224, 224)
    if ".video." in module:
        return (1, 3, 8, 64, 64) if "swin" in name else (1, 3, 8, 32, 32)
    if name.startswith("maxvit"):
        return (1, 3, 224, 224)
    if name.startswith("vit"):
        side = 4 * int(name.rpartition("_")[2])
        return (1, 3, side, side)
    if ".optical_flow." in module:
        return (1, 3, 128, 128)
    side = 96 if name in ("googlenet", "inception_v3") else 64
    return (1, 3, side, side)


def build(name: str) -> tuple[torch.nn.Module, tuple[Any, ...]]:
    from fxopt.models.vision_import import import_torchvision

    options: dict[str, Any] = {"weights": None}
    if name in DETECTORS:
        options |= {"weights_backbone": None, "min_size": 128, "max_size": 160}
        options = {k: v for k, v in options.items() if not (name.startswith("ssd") and k in ("min_size", "max_size"))}
    elif ".segmentation." in names()[name]:
        options["weights_backbone"] = None
    elif name.startswith("vit"):
        options["image_size"] = shape(name)[-1]
    elif name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    torch.manual_seed(0)
    model = import_torchvision().models.get_model_builder(name)(**options).eval()
    for module in model.modules():  # a batch norm that does nothing would hide a mistake
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        for threshold in ("score_thresh", "objectness_thresh"):  # untrained: let some boxes through
            if hasattr(module, threshold):
                setattr(module, threshold, 0.0)
    if name in DETECTORS:
        return model, ([torch.rand(3, 128, 128)],)
    x = torch.randn(shape(name))
    return model, (x, x.roll(2, -1)) if ".optical_flow." in names()[name] else (x,)
