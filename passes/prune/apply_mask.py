"""Zero the weights that a mask file marks with 0."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from annotated_doc import Doc

from fxopt import Program, graph_pass
from fxopt.errors import DataError, UnknownNameError
from fxopt.passes.common.masks import store_masked
from fxopt.support.observed import reads_file

_EXAMPLE = "example"


@graph_pass(kind="approx")
def apply_mask(
    program: Program, *, path: Annotated[str, Doc("File of masks by weight name, .safetensors or .npz.")] = _EXAMPLE
) -> None:
    """Zero the weights that a mask file marks with 0.

    The file is ``.safetensors`` or ``.npz`` with a mask for each weight that is to be masked, under the weight's name:
    bool, integers or floats, all 0 (zero the weight) or 1 (keep it). A mask has as many dims as its weight, and in each
    the same size or 1: [out,1,1,1] masks output channels of a convolution, and a channel is zero when its bias, or scale
    and shift of the batch norm after it, are masked too. A tied weight is masked under all its names. The default,
    ``'example'``, is the mask [[1],[0],[1],[1]] of the weight ``example.weight`` below. Raises DataError for a file that
    cannot be read, a name that the program does not have, another shape, and values other than 0 and 1.

    before:
        %x : f32[2,8]
        %w = param "example.weight" : f32[4,8]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,8]
        %w = param "example.weight" : f32[4,8]
        %y = aten.linear(%x, %w)
        return %y

    The graph stays as it is: the second row of the weight is zero.
    """
    tensors = program.tensors()
    keep = {}
    for name, mask in _read(path).items():
        if name not in tensors:
            raise DataError(
                f"mask {path!r}: {UnknownNameError('weight', name, tensors, 'give path=… of your own masks')}"
            )
        keep[name] = _checked(mask, tensors[name], f"mask {path!r}: {name!r}")
    store_masked(program, keep)


def _checked(mask: torch.Tensor, weight: torch.Tensor, where: str) -> torch.Tensor:
    """The mask as bool, if it fits the weight."""
    sizes = list(weight.shape)
    if not weight.is_floating_point():
        raise DataError(f"{where} is {weight.dtype}; only floating weights are masked, so do it before quantize")
    fits = mask.dim() == weight.dim() and all(m in (1, w) for m, w in zip(mask.shape, sizes, strict=True))
    if not fits:
        raise DataError(
            f"{where} has the shape {list(mask.shape)}, the weight {sizes}; give every dim its size, or 1 for all of it"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError(f"{where} holds values other than 0 (zero the weight) and 1 (keep it)")
    return mask != 0


def _read(path: str) -> dict[str, torch.Tensor]:
    if path == _EXAMPLE:
        return {"example.weight": torch.tensor([[1], [0], [1], [1]])}
    suffix = Path(path).suffix
    if suffix not in (".safetensors", ".npz") or not Path(path).is_file():
        raise DataError(f"there is no mask file {path!r}; give path=… of a .safetensors or .npz file")
    reads_file(path)
    try:
        return _read_safetensors(path) if suffix == ".safetensors" else _read_npz(path)
    except Exception as error:  # what damaged files raise differs by format
        raise DataError(
            f"the mask file {path!r} cannot be read: {error}",
            way_out="save masks with safetensors.torch.save_file({name: mask}, 'mask.safetensors'), or numpy.savez",
        ) from error


def _read_safetensors(path: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _read_npz(path: str) -> dict[str, torch.Tensor]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
