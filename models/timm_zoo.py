"""Every image model of timm as a workload: ``timm:NAME``."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import torch
from annotated_doc import Doc
from annotated_types import Ge

from fxopt.errors import OptionError, RecipeError, UnknownNameError
from fxopt.models.randomize import randomize
from fxopt.models.synthetic import SyntheticImages, synthetic_batch
from fxopt.models.vision_import import import_timm
from fxopt.workload import Args, Workload

_SEED = 0


def timm_workload(
    name: Annotated[str, Doc("A model of timm, with a tag of weights behind a dot or without.")],
    *,
    weights: Annotated[str, Doc("DEFAULT or a tag of weights, which are downloaded; None for random ones.")]
    | None = None,
    size: Annotated[int, Ge(1), Doc("Side of the images in pixels; None for that of the architecture.")] | None = None,
) -> Workload:
    """Any timm model by name, e.g. mobilenetv3_small_100, convnext_atto, vit_tiny_patch16_224.

    ``weights`` is "DEFAULT" or a tag of timm's (as in ``resnet18.a1_in1k``), and is downloaded; without it the weights are
    random, as for torchvision's models (:func:`fxopt.models.randomize.randomize`). ``size`` is the side of the images in
    pixels. Input float32 [N,C,size,size]; classifiers carry synthetic images with the metric ``agreement``.

    Raises UnknownNameError for a model or tag that timm does not have, OptionError for one that takes no images,
    UsageError without timm, and, when the model is built, OptionError for a size that the architecture cannot take and
    RecipeError for weights that cannot be loaded.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())
    architecture = name.partition(".")[0]
    full = name if weights in (None, "DEFAULT") else f"{architecture}.{weights}"
    try:
        config = timm.get_pretrained_cfg(full)
    except RuntimeError:
        tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
        raise UnknownNameError(f"weights of timm:{architecture}", full.partition(".")[2], tags) from None
    if config is None or len(config.input_size) != 3:
        raise OptionError(f"timm:{name} has no input size of its own; wrap it in a workload that gives its inputs")
    channels, high, wide = config.input_size
    shape = (channels, size or high, size or wide)
    # a model of a fixed size has to be told of another one; the rest would not understand the option
    options = {"img_size": size} if size is not None and config.fixed_input_size else {}
    build = functools.partial(
        _build, full, weights is not None, shape, config.num_classes > 0, options, size is not None
    )
    return Workload(
        name=f"timm:{name}",
        model=build,
        inputs=functools.partial(_inputs, shape),
        data=SyntheticImages(build, shape) if config.num_classes > 0 else None,
    )


def _build(
    name: str, pretrained: bool, shape: tuple[int, int, int], classifies: bool, options: dict[str, Any], resized: bool
) -> torch.nn.Module:
    timm = import_timm()
    if pretrained:
        try:
            return timm.create_model(name, pretrained=True, **options).eval()
        except Exception as error:
            raise RecipeError(
                f"timm:{name}: the weights could not be loaded: {type(error).__name__}: {error}",
                way_out="check the network and HF_HOME, or leave `weights` out for random ones",
            ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        try:
            model = timm.create_model(name, pretrained=False, **options).eval()
            randomize(model, (synthetic_batch(4, shape),), seed=_SEED, centre=classifies)
        except Exception as error:
            if not resized:
                raise
            raise OptionError(f"timm:{name}: images of {shape[1]}x{shape[2]} do not fit: {error}") from error
    return model


def _inputs(shape: tuple[int, int, int]) -> tuple[Args, dict[str, Any]]:
    return (synthetic_batch(1, shape),), {}
