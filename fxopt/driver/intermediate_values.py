"""The codes that an artifact's own kernels compute for the quantized values of its program, beside its outputs."""

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
    """The nodes that quantize a value with a scale that is known; those of ranges taken at run time are not among them."""
    return [node for node in program.find(_QUANTIZE) if not isinstance(node.args[1], fx.Node)]


class Exposed:
    """A twin of an artifact that gives codes of quantized values too, by the same kernels; written into ``folder``."""

    def __init__(
        self,
        program: Program,
        backend: Backend,
        target: Target,
        built: Artifact,
        folder: Path,
        floats: Sequence[str] | None = None,
    ) -> None:
        """``program`` is what was built, as the backend legalized it. Raises BackendError.

        With ``floats`` it is built again to give the values of the nodes of these names, instead of the quantized ones.
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
        """Flat outputs, and codes by the name of the node that quantizes."""
        return self.named(self._run.runner(self._built.arrays(*args, **kwargs)))

    def named(self, arrays: Sequence[Any]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """The same of the flat arrays that the twin gave, here or on another machine."""
        flat = [torch.from_numpy(array.copy()) for array in arrays]
        found = dict(zip(self.names, flat[self._count :], strict=True))
        return flat[: self._count], {n: _codes(self._nodes[n], v) if n in self._nodes else v for n, v in found.items()}


def _codes(node: fx.Node, value: torch.Tensor) -> torch.Tensor:
    """The codes that ``node`` would have given for ``value``, which holds codes already or what they stand for."""
    return value if not value.is_floating_point() else node.target(value, *node.args[1:])  # type: ignore[operator]
