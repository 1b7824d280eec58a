"""Intermediate quantized values of an artifact, from its own kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fxopt.backend import Backend
from fxopt.ir.program import Program
from fxopt.runtime.artifact import Artifact, load_to_check
from fxopt.runtime.staging import MANIFEST, describe_files, write_json
from fxopt.target import Target

_QUANTIZE = "quantized_decomposed.quantize_per_tensor"


def quantized_values(program: Program) -> list[fx.Node]:
    """The nodes that quantize with a static scale, not those of dynamic quantization."""
    return [node for node in program.find(_QUANTIZE) if not isinstance(node.args[1], fx.Node)]


class Exposed:
    """A twin of an artifact with quantized values as further outputs, from the same kernels; written into ``folder``."""

    def __init__(
        self,
        program: Program,
        backend: Backend,
        target: Target,
        built: Artifact,
        folder: Path,
        floats: Sequence[str] | None = None,
    ) -> None:
        """``program`` is the legalized program that was built. Raises BackendError.

        With ``floats`` it is built again with the values of the nodes of these names as outputs, instead of quantized ones.
        """
        folder.mkdir(parents=True)
        self._nodes = {node.name: node for node in quantized_values(program)} if floats is None else {}
        if floats is None:
            self.names = backend.expose(program, target, built.folder, list(self._nodes), folder)
        else:
            self.names = Backend.expose(backend, program, target, built.folder, floats, folder)
        manifest = built.manifest.model_copy(update={"files": describe_files(folder)})
        write_json(folder / MANIFEST, manifest.to_dict())
        self._count = len(manifest.outputs)
        self._run = load_to_check(folder, target)
        self._built = built

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Flat outputs, and quantized values by the name of the node that quantizes."""
        return self.named(self._run.runner(self._built.arrays(*args, **kwargs)))

    def named(self, arrays: Sequence[Any]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """The same from flat output arrays of the twin, run on this machine or another."""
        flat = [torch.from_numpy(array.copy()) for array in arrays]
        found = dict(zip(self.names, flat[self._count :], strict=True))
        return flat[: self._count], {n: _codes(self._nodes[n], v) if n in self._nodes else v for n, v in found.items()}


def _codes(node: fx.Node, value: torch.Tensor) -> torch.Tensor:
    """The quantized value of ``node`` from ``value``, which is quantized already or dequantized."""
    return value if not value.is_floating_point() else node.target(value, *node.args[1:])  # type: ignore[operator]
