"""Weights files: safetensors with metadata, written atomically, read with errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from fxopt.errors import RecipeError
from fxopt.support.scratch import write_whole


def save_weights(path: Path, model: torch.nn.Module, metadata: Mapping[str, str]) -> None:
    """Write the model's state, whole or not at all.

    The same state and metadata give the same bytes.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, _sort_header(save(state, metadata=dict(metadata))))


def _sort_header(data: bytes) -> bytes:
    """Sort the header of a safetensors file: the library writes metadata in an order that differs from run to run."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return data[:8] + header.encode().ljust(end - 8) + data[end:]


def trained(net: Callable[[], torch.nn.Module], path: Path, *, command: str) -> torch.nn.Module:
    """What ``net`` makes with the weights of ``path``, in evaluation mode. Raises what :func:`load_weights` raises."""
    model = net()
    load_weights(path, model, command=command)
    return model.eval()


def load_weights(path: Path, model: torch.nn.Module, *, command: str) -> None:
    """Read ``path`` into ``model``. Raises RecipeError, naming the training ``command``, if it is missing or unfit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise RecipeError(
            f"there is no weights file {path}\n  train it: {command}",
            way_out=(
                "those of the demo models are a package of their own: pip install fxopt-demo-weights, or "
                "models/demo_weights"
            ),
        ) from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"{path} is not a readable safetensors file: {error}", way_out=f"train it again: {command}"
        ) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RecipeError(f"{path} does not fit the network: {reason}", way_out=f"train it again: {command}") from error
