"""The contract of backends."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fxopt.backend import Backend, find_backend
from fxopt.driver.lower import lower
from fxopt.errors import BackendError
from fxopt.frontend.capture import capture
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import relative_error
from fxopt.runtime.artifact import Artifact
from fxopt.target.detect import host
from fxopt.testing.contract import (
    Check,
    ContractError,
    check_docstring,
    check_name,
    check_round_trip,
    check_value,
    check_wrong_options,
    require,
)
from fxopt.testing.small_models import SmallModel, small_models
from fxopt.testing.small_workload import other_batch, small_workload

AGREEMENT = 1e-4
"""Largest relative difference between eager and the artifact of a float32 program."""

_IMPORT = """
import importlib.util, sys
sys.modules["torch"] = None
if sys.argv[1] == "file":
    spec = importlib.util.spec_from_file_location("checked", sys.argv[2])
    module = importlib.util.module_from_spec(spec)
    sys.modules["checked"] = module
    spec.loader.exec_module(module)
else:
    module = importlib.import_module(sys.argv[2])
str(getattr(module, sys.argv[3])())
"""


def backend_checks(cls: type[Backend], models: Iterable[SmallModel] | None = None) -> list[Check]:
    """List the checks of a backend: its form, import without torch, refusal, and each small model built and run."""
    form: list[tuple[str, Any]] = [
        ("name is snake_case and its own", check_name),
        ("docstring begins with a sentence", check_docstring),
        ("is a frozen, hashable value", check_value),
        ("text form round-trips", lambda c: check_round_trip(c, find_backend)),
        ("wrong options are refused", lambda c: check_wrong_options(c, find_backend)),
        ("imports without torch", _check_import),
        ("an unknown op is refused, or run", _check_unknown_op),
    ]
    if cls.candidates is not Backend.candidates:  # it builds nothing itself
        return [Check(name, functools.partial(check, cls)) for name, check in (*form[:-1], _CHOICE)]
    chosen = list(small_models() if models is None else models)
    checks = [Check(name, functools.partial(check, cls)) for name, check in form]
    built: dict[str, dict[str, Any]] = {}
    for model in chosen:
        checks.append(Check(f"builds {model.name} as eager runs it", functools.partial(_check_on, cls, model, built)))
    if chosen:
        checks.append(Check("builds the same files twice", functools.partial(_check_twice, cls, chosen, built)))
        checks.append(Check("builds at least one of the models", functools.partial(_check_any, chosen, built)))
    return checks


def _check_candidates(cls: type[Backend]) -> str:
    found = cls().candidates(host())
    nested = [b for b in found if b.candidates(host()) != (b,)]
    require(bool(found) and not nested, f"candidates() must give backends that build themselves, got {found!r}")
    return ", ".join(map(str, found))


_CHOICE = ("gives backends to choose among", _check_candidates)


def _check_import(cls: type[Backend]) -> None:
    path = inspect.getfile(cls)
    loaded = cls.__module__.startswith("fxopt_loaded_") or cls.__module__ == "__main__"
    where = ("file", path) if loaded else ("module", cls.__module__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, *where, cls.__qualname__],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = (done.stderr.strip().splitlines() or [""])[-1]
    frames = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("File ")]
    require(
        done.returncode == 0,
        f"importing {path} and making {cls.__qualname__}() fails where torch is not installed: {last}\n  "
        f"{frames[-1] if frames else ''}\n  import torch, and whatever imports it, inside build() and refuses()",
    )


class _Mystery(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.ops.fxopt_testing.mystery(x.relu())


@functools.cache
def _mystery() -> Program:
    """A program with an op that no backend can know."""

    @torch.library.custom_op("fxopt_testing::mystery", mutates_args=())
    def mystery(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    mystery.register_fake(torch.empty_like)
    return capture(_Mystery(), (torch.ones(2, 3),))


def _check_unknown_op(cls: type[Backend]) -> str:
    program = _mystery().copy()
    try:
        with tempfile.TemporaryDirectory() as folder:
            artifact = _build(cls(), program, Path(folder))
            _check_agreement(program, artifact, program.args, program.kwargs, "the example inputs")
            return "run"
    except BackendError as error:
        message = str(error)
    source = Path(__file__).name
    require(
        "mystery" in message and source in message,
        "a BackendError about an op must show the node with its source line (program.describe(node)); best, let "
        f"refuses(node) return the reason\n  expected 'mystery' and '{source}:…' in: {message}",
    )
    return "refused"


def _check_on(cls: type[Backend], model: SmallModel, built: dict[str, dict[str, Any]]) -> str:
    program = model.program()
    before = program.fingerprint()
    with tempfile.TemporaryDirectory() as folder:
        try:
            artifact = _build(cls(), program, Path(folder))
        except BackendError as error:
            shown = any(f"%{node.name} = " in str(error) for node in program.graph.nodes)
            require(shown, f"a BackendError must show the node that it is about (program.describe(node)), got: {error}")
            return f"declined: {str(error).splitlines()[-1].strip()}"
        require(
            program.fingerprint() == before, "build() changed the program that it was given; work on program.copy()"
        )
        require(bool(artifact.manifest.files), "build() wrote no file into the folder it was given")
        _check_agreement(program, artifact, program.args, program.kwargs, "the example inputs")
        for size in (1, 3, 5) if "batch" in program.dims().values() else ():
            args, kwargs = other_batch(program, size)
            _check_agreement(program, artifact, args, kwargs, f"a batch of {size}")
    built[model.name] = artifact.manifest.files
    return "built"


def _check_twice(cls: type[Backend], models: list[SmallModel], built: dict[str, dict[str, Any]]) -> str:
    """Build two of the models that were ``built`` again, and compare the files with the first ones."""
    chosen = [model for model in models if model.name in built][:2]
    for model in chosen:
        before = built[model.name]
        with tempfile.TemporaryDirectory() as folder:
            after = _build(cls(), model.program(), Path(folder)).manifest.files
        different = sorted(name for name in before | after if before.get(name) != after.get(name))
        require(
            not different,
            f"building {model.name} twice gave different files: {', '.join(different)}; "
            "keep times, paths and the order of sets out of them",
        )
    return ", ".join(model.name for model in chosen)


def _check_any(models: list[SmallModel], built: dict[str, dict[str, Any]]) -> str:
    require(bool(built), f"it built none of {', '.join(m.name for m in models)}; give models=[…] that it can build")
    return f"{len(built)} of {len(models)}"


def _build(backend: Backend, program: Program, out: Path) -> Artifact:
    return lower(program, backend, host(), out, workload=small_workload(program))[1]


def _check_agreement(
    program: Program, artifact: Artifact, args: tuple[Any, ...], kwargs: dict[str, Any], where: str
) -> None:
    want = pytree.tree_leaves(program(*args, **kwargs))
    arrays, named = pytree.tree_map(lambda v: v.numpy() if isinstance(v, torch.Tensor) else v, (args, kwargs))
    try:
        got = pytree.tree_leaves(artifact(*arrays, **named))
    except Exception as error:
        raise ContractError(f"it fails on {where}: {type(error).__name__}: {error}") from error
    require(len(want) == len(got), f"it gives {len(got)} outputs on {where}, eager gives {len(want)}")
    for i, (a, b) in enumerate(zip(want, got, strict=True)):
        require(isinstance(b, np.ndarray), f"output {i} is {type(b).__name__}; a runner gives numpy arrays")
        tensor = torch.from_numpy(np.array(b))
        same = a.dtype == tensor.dtype and a.shape == tensor.shape
        require(
            same,
            f"output {i} on {where}: expected {a.dtype}{list(a.shape)}, got {tensor.dtype}{list(tensor.shape)}",
        )
        distance = relative_error(a, tensor)
        require(
            distance <= AGREEMENT,
            f"output {i} differs from eager by {distance:.3g} relative on {where}, allowed {AGREEMENT:g}",
        )
