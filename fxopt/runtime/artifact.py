"""An artifact: a folder with a compiled model, ``manifest.json`` and the report; and loading one, without torch.

``manifest.json`` holds inputs, outputs and their nesting, the backend and target, the recipe's text, versions,
the sha256 of every file, and the figures that were measured.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fxopt.backend import Backend, Runner, find_backend
from fxopt.backend.manifest import ConstantInput, Manifest, TensorInput
from fxopt.errors import BackendError, FxoptError, UsageError, text_of
from fxopt.runtime import treespec
from fxopt.runtime.device import Device, device_of
from fxopt.runtime.generate import Decoder, Prompts, Sampling, generate
from fxopt.runtime.parts import BATCH, run_in_parts
from fxopt.runtime.read_manifest import read_manifest
from fxopt.support.html import fold, table, words
from fxopt.target import Target

_EXAMPLE = "rpc://192.168.1.20:9090"


class Artifact:
    """A loaded artifact: called like the model it was built from, with numpy arrays or anything that converts to one."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        runner: Runner,
        device: Device | None = None,
        elsewhere: str | None = None,
    ) -> None:
        """``device`` is where it runs, None for this machine; ``elsewhere`` why it cannot be run from here at all, else None."""
        self.folder, self.manifest, self.runner = folder, manifest, runner
        self.device, self.elsewhere = device, elsewhere

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Inputs nest as at capture; outputs are numpy arrays nested as the model nests its own.

        A batch that is larger than the model was built for is run in parts, where its examples are independent.
        Raises UsageError for inputs of another structure, shape or dtype.
        """
        arrays = self.arrays(*args, **kwargs)
        return treespec.assemble(self.manifest.out_tree, self.run_arrays(arrays))

    def run_arrays(self, arrays: list[Any]) -> list[Any]:
        """Run on flat arrays that are known to fit, as :meth:`arrays` gives them; outputs are flat too."""
        return run_in_parts(self.runner, arrays, self.manifest)

    def generate(
        self,
        prompts: Prompts,
        max_new_tokens: int,
        *,
        stop: Sequence[int] = (),
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """The tokens that a causal language model appends to each prompt, at most ``max_new_tokens``.

        A prompt is a sequence of token ids; they may differ in length, and an array ``[prompts, tokens]`` holds those of one.
        One of ``stop`` ends its row, and is its last token.
        The most likely token is taken, or, with a ``temperature``, one drawn by ``seed`` among the ``top_k`` most likely
        (0: all) and the nucleus of ``top_p``.

        Raises UsageError for a model of another kind, an empty prompt, a token that the model does not have, or more tokens
        than it has positions; OptionError for options out of their range.
        """
        decoder, sampling = Decoder.of(self.manifest), Sampling(temperature, top_k, top_p)
        decoder.check(prompts, max_new_tokens)
        padded = np.zeros((len(prompts), max(map(len, prompts))), np.int64)
        self.arrays(padded, padded, decoder.empty(len(prompts)))  # the check of a call, once for all

        def step(ids: Any, mask: Any, state: list[Any]) -> tuple[Any, list[Any]]:
            logits, *new = self.run_arrays([ids, mask, *state])
            return logits, new

        return generate(step, decoder.empty_leaves(len(prompts)), prompts, max_new_tokens, stop, sampling, seed)

    def __repr__(self) -> str:
        sides = (", ".join(f"{name}: {kind}" for name, kind in side) for side in self._interface())
        return f"Artifact {self.folder} by {self.manifest.backend}: ({') -> ('.join(sides)})"

    def _repr_html_(self) -> str:
        """Its interface for a notebook, and what was measured of it."""
        rows = [(what, *one) for what, side in zip(("input", "output"), self._interface(), strict=True) for one in side]
        measured = json.dumps(self.manifest.measured, indent=2)
        return words(repr(self).partition(":")[0]) + table(("", "name", "type"), rows) + fold("measured", measured)

    def _interface(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Inputs and outputs by name, with their types; of outputs the sizes for the example inputs."""
        inputs = [
            (fact.name, repr(fact.constant) if isinstance(fact, ConstantInput) else _type(fact.dtype, fact.shape))
            for fact in self.manifest.inputs
        ]
        return inputs, [(str(i), _type(out.dtype, out.example)) for i, out in enumerate(self.manifest.outputs)]

    def arrays(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The inputs as the runner takes them, checked. Raises UsageError."""
        leaves = treespec.flatten_as(self.manifest.in_tree, [list(args), kwargs])
        arrays = []
        sizes: dict[str, int] = {}
        dims = self.manifest.dims
        if self.manifest.splits:
            dims = dims | {BATCH: (dims[BATCH][0], None)}
        for value, fact in zip(leaves, self.manifest.inputs, strict=True):
            if isinstance(fact, ConstantInput):
                if value != fact.constant:
                    raise UsageError(
                        f"input {fact.name!r} was captured as the constant {fact.constant!r}, got {value!r}"
                    )
                continue
            arrays.append(_checked(np.asarray(value), fact, sizes, dims))
        return arrays

    def random_inputs(self, batch: int = 1, seed: int = 0) -> tuple[list[Any], dict[str, Any]]:
        """Random inputs that fit, as ``(args, kwargs)``; integers are zeros, as their range is unknown."""
        generator = np.random.default_rng(seed)
        leaves: list[Any] = []
        for fact in self.manifest.inputs:
            if isinstance(fact, ConstantInput):
                leaves.append(fact.constant)
                continue
            shape = [batch if size == "batch" else n for size, n in zip(fact.shape, fact.example, strict=True)]
            dtype = np.dtype(fact.dtype)
            noise = generator.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
            leaves.append(noise)
        args, kwargs = treespec.assemble(self.manifest.in_tree, leaves)
        return args, kwargs


def _checked(
    array: Any, fact: TensorInput, sizes: dict[str, int], dims: dict[str, tuple[int | None, int | None]]
) -> Any:
    """The array as the runtime takes it; ``sizes`` records the dynamic dims of this call."""
    fits = len(fact.shape) == array.ndim and str(array.dtype) == fact.dtype
    for want, got in zip(fact.shape, array.shape, strict=False):
        low, high = dims.get(want, (0, None)) if isinstance(want, str) else (want, want)
        known = sizes.setdefault(want, got) if isinstance(want, str) else got
        fits = fits and known == got and got >= (low or 0) and (high is None or got <= high)
    if not fits:
        told = [
            f"\n  {name}: {low} to {high or 'any'}, {sizes[name]} in this call"
            for name, (low, high) in dims.items()
            if name in fact.shape and name in sizes
        ]
        expected, got_type = _type(fact.dtype, fact.shape), _type(array.dtype, array.shape)
        raise UsageError(f"input {fact.name!r}: expected {expected}, got {got_type}{''.join(told)}")
    return np.asarray(array, order="C")  # ascontiguousarray would make a scalar 1-d


def _type(dtype: Any, shape: Any) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


def load(folder: str | Path, *, on: str | None = None, trusted: bool = True) -> Artifact:
    """Load an artifact. Needs only the runtime of its backend.

    ``on`` is the address of a device where ``fxopt serve`` runs, such as ``rpc://192.168.1.20:9090``: the artifact is uploaded
    and run there. With ``trusted=False`` an artifact that is native code, which would run with your rights, is refused
    before any of it is loaded; see docs/trust.md.

    Raises BackendError for a folder that is not an artifact, whose files are not those that were built, that was built
    for another machine, or that is code and not trusted; DeviceError where the device cannot be used.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    backend = find_backend(manifest.backend)
    if not trusted and backend.artifact_is_code:
        raise BackendError(
            f"{folder} is not trusted, and an artifact of the backend {backend.name!r} is code that runs when it is loaded",
            way_out="verify who built it, `fxopt verify`, and load it with trusted=True; or take one of onnx or openvino",
        )
    target = dataclasses.replace(manifest.target, address=on)
    found = _place(folder, manifest, backend, target)
    if found.elsewhere:
        raise BackendError(
            f"{folder} was built for {target.name}: {found.elsewhere}",
            way_out=f"load it there, or on={_EXAMPLE!r} with its address",
        )
    return found


def load_for(folder: Path, target: Target, backend: Backend | None = None) -> Artifact:
    """Load an artifact on its target's device, or on this machine; one that can run on neither fails when called.

    ``backend`` is its own with other options of the runtime. Raises BackendError, and DeviceError where the device is
    another machine than the target says.
    """
    manifest = read_manifest(folder)
    backend = backend or find_backend(manifest.backend)
    manifest.backend = str(backend)
    return _place(folder, manifest, backend, target)


def load_to_check(folder: Path, target: Target) -> Artifact:
    """Like :func:`load_for`; an artifact that cannot run on this machine is run by its backend's stand-in, if there is one."""
    found = load_for(folder, target)
    if found.elsewhere and (runner := find_backend(found.manifest.backend).stand_in(folder, found.manifest)):
        return Artifact(folder, found.manifest, runner)
    return found


def _place(folder: Path, manifest: Manifest, backend: Backend, target: Target) -> Artifact:
    try:
        return _placed(folder, manifest, backend, target)
    except (FxoptError, OSError, MemoryError):
        raise
    except Exception as error:  # a manifest's ``facts`` are the backend's own, and may come from anybody
        raise BackendError(
            f"{backend} cannot load {folder}: {type(error).__name__}: {text_of(error)}",
            way_out="build the artifact again, or load it with the fxopt that built it",
        ) from error


def _placed(folder: Path, manifest: Manifest, backend: Backend, target: Target) -> Artifact:
    if device := device_of(target):
        return Artifact(folder, manifest, device.open(folder, str(backend)), device)
    if reason := backend.elsewhere(manifest):
        return Artifact(folder, manifest, _nowhere(f"{folder} was built for {target.name}: {reason}"), elsewhere=reason)
    return Artifact(folder, manifest, backend.load(folder, manifest))


def _nowhere(message: str) -> Runner:
    def run(arrays: list[Any]) -> list[Any]:
        raise BackendError(message, way_out="run it there, or give the target its address")

    return run


def model_bytes(built: Artifact) -> int:
    """Size of the compiled model in bytes."""
    return sum((Path(built.folder) / name).stat().st_size for name in built.manifest.files)
