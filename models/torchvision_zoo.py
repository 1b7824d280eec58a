"""Every float model of torchvision as a workload: ``torchvision:NAME``."""

from __future__ import annotations

import functools
import inspect
from typing import Annotated, Any

import torch
from annotated_doc import Doc
from annotated_types import Ge

from fxopt.errors import OptionError, RecipeError, UnknownNameError
from fxopt.models.randomize import randomize
from fxopt.models.synthetic import SyntheticImages
from fxopt.models.vision_import import import_torchvision
from fxopt.models.zoo_inputs import Family, example_args, family_of, native_size
from fxopt.workload import Args, Workload

_SEED = 0
_OPTIONS_OF_SIZE = {"vit_": "image_size", "maxvit": "input_size"}


def torchvision_workload(
    name: Annotated[str, Doc("The builder of a model, as torchvision names it.")],
    *,
    weights: Annotated[str, Doc("DEFAULT or a name of torchvision's, which are downloaded; None for random ones.")]
    | None = None,
    size: Annotated[int, Ge(1), Doc("Side of the images in pixels; None for that of the architecture.")] | None = None,
) -> Workload:
    """Any float model of torchvision by the name of its builder, e.g. resnet18, vit_b_16, fcn_resnet50, raft_small.

    ``weights`` is "DEFAULT" or a name from torchvision's enum, and is downloaded; without it the weights are random,
    from a fixed seed, with no constant parameter and no trivial batch norm (see :func:`fxopt.models.randomize.randomize`).
    ``size`` is the side of the images in pixels; inputs are those of :func:`fxopt.models.zoo_inputs.example_args`.
    Image classifiers carry synthetic images with the metric ``agreement``; the others have no data.

    Raises UnknownNameError for a model or weights that torchvision does not have, UsageError without torchvision, and,
    when the model is built, OptionError for a size that the architecture cannot take and RecipeError for weights that
    cannot be loaded.
    """
    models = import_torchvision().models
    known = [n for n in models.list_models() if not n.startswith("quantized_")]
    if name not in known:
        raise UnknownNameError("torchvision model", name, known)
    family = family_of(models.get_model_builder(name).__module__)
    if name.startswith("mvit") and size not in (None, 224):
        raise OptionError(f"torchvision:{name} is built for 224 pixels, size={size} does not fit")
    side = size or _weights_size(name, weights) or native_size(name, family)
    build = functools.partial(_build, name, family, weights, size, side)
    return Workload(
        name=f"torchvision:{name}",
        model=build,
        inputs=functools.partial(_inputs, family, side),
        # detection takes images of different sizes in a list: their first dim is not a batch
        dynamic=None if family == "detection" else "batch",
        data=SyntheticImages(build, (3, side, side)) if family == "classification" else None,
    )


def _build(name: str, family: Family, weights: str | None, size: int | None, side: int) -> torch.nn.Module:
    models = import_torchvision().models
    builder = models.get_model_builder(name)
    options: dict[str, Any] = {"weights": weights}
    for start, option in _OPTIONS_OF_SIZE.items():
        if size is not None and name.startswith(start):
            options[option] = size if option == "image_size" else (size, size)
    if weights is not None:
        try:
            return builder(**options).eval()
        except Exception as error:
            raise RecipeError(
                f"torchvision:{name}: the weights {weights!r} could not be loaded: {type(error).__name__}: {error}",
                way_out=f"check the network, or put the file into {torch.hub.get_dir()}/checkpoints",
            ) from error
    if "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        try:
            model = builder(**options).eval()
            randomize(model, example_args(family, 4, side), seed=_SEED, centre=family == "classification")
        except Exception as error:
            if size is None:
                raise
            raise OptionError(f"torchvision:{name}: size={size} does not fit: {error}") from error
    return model


def _weights_size(name: str, weights: str | None) -> int | None:
    """The size that named weights were made for, or None. Raises UnknownNameError for weights that do not exist."""
    if weights is None:
        return None
    enum = import_torchvision().models.get_model_weights(name)
    if weights not in enum.__members__:
        raise UnknownNameError(f"weights of torchvision:{name}", weights, enum.__members__)
    crop = getattr(enum[weights].transforms(), "crop_size", None)
    return int(crop[0]) if crop else None


def _inputs(family: Family, side: int) -> tuple[Args, dict[str, Any]]:
    return example_args(family, 1, side), {}
