"""The backend interface: a backend lowers a program to an artifact for a target, and loads that again.

A backend is a frozen dataclass whose fields are its options, as a pass is, and has the same text form. Its module
must import without torch, so that an artifact loads where only the backend's runtime is installed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fxopt.backend.kernel_time import KernelTime
from fxopt.backend.quant_policy import Policy
from fxopt.errors import BackendError, UnknownNameError
from fxopt.support.options import check_option, type_hints
from fxopt.support.spec import format_call, parse_call

if TYPE_CHECKING:
    from torch import fx

    from fxopt.backend.manifest import Manifest
    from fxopt.backend.standalone import Standalone
    from fxopt.ir.program import Program
    from fxopt.target import Target

ESTIMATED_CYCLES = "estimated_cycles"
"""The fact of a build that says about how many cycles a call takes, of a backend that estimates them."""

Runner = Callable[[list[Any]], list[Any]]
"""Runs a built model: flat numpy inputs to flat numpy outputs."""


@dataclasses.dataclass(frozen=True)
class Backend:
    """Base of all backends. Subclasses are frozen dataclasses with a ``name``; they need ``build`` and ``load``."""

    name: ClassVar[str] = ""
    artifact_is_code: ClassVar[bool] = True
    """Whether loading an artifact runs code that is in it, so that it must be trusted; False where it is data alone."""

    estimates_cycles: ClassVar[bool] = False
    """Whether :data:`ESTIMATED_CYCLES` is among the facts of a build: what latency is judged by where it cannot be measured."""

    @property
    def rounds_floats(self) -> bool:
        """Whether an option has floats computed in fewer bits than the program's."""
        return False

    def __post_init__(self) -> None:
        hints = type_hints(type(self))  # type: ignore[arg-type]
        for field in dataclasses.fields(self):
            where = f"backend {self.name}({field.name}=…)"
            object.__setattr__(self, field.name, check_option(where, hints[field.name], getattr(self, field.name)))

    def refuses(self, node: fx.Node) -> str | None:
        """Why this backend cannot lower a node; None if it can. Called for every node before the build."""
        return None

    def legalize(self) -> str:
        """The passes that legalize any program for this backend, as text; none by default."""
        return ""

    def largest_sizes(self, program: Program) -> dict[str, int]:
        """Upper bounds of dynamic sizes by their symbol, for a runtime that plans memory for the largest; none by default.

        They become the program's, so that what is built is compared within them; larger batches are run in parts.
        Raises BackendError for a size whose bound only the user can know.
        """
        return {}

    def quant_policy(self, target: Target) -> Policy:
        """What to quantize and how, so that this backend's integer kernels for ``target`` are used."""
        return Policy()

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write the compiled model into the folder ``out``; return facts for the report. Raises BackendError.

        Of a backend whose kernels may add products of bytes in 16 bits, :data:`fxopt.target.int8_pairs.OVERFLOWS` is one of them.
        """
        raise NotImplementedError

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Return a runner of the model that :meth:`build` wrote into ``folder``. Must work without torch."""
        raise NotImplementedError

    def profile(self, folder: Path, manifest: Manifest, inputs: list[Any], calls: int) -> list[KernelTime]:
        """Run a built model ``calls`` times under the runtime's profiler: every kernel of a call, in order.

        Must work without torch, with the nodes that :meth:`build` recorded in the manifest. Raises BackendError.
        """
        raise BackendError(
            f"the backend {self.name!r} does not tell what each kernel takes",
            way_out="take another backend, or `fxopt bench` for the whole",
        )

    def standalone(self, folder: Path, manifest: Manifest) -> Standalone:
        """The parts of a program that runs an artifact without Python, for `fxopt bundle`. Raises BackendError."""
        raise BackendError(
            f"the backend {self.name!r} has no program that runs its models without Python",
            way_out=(
                "build with another backend, such as tvm or onnx; or install Python on the device, and fxopt "
                "with the runtime"
            ),
        )

    def missing(self) -> str | None:
        """The package that building or running needs and that is not installed, with the way out; None if there is none."""
        return None

    def cannot_build(self, target: Target) -> str | None:
        """Why this machine cannot build for ``target``, with the way out; None if it can.

        By default a missing package, or a target that is a GPU or has no operating system.
        """
        if target.is_bare_metal:
            return "its runtime needs an operating system"
        return "it has no kernels for GPUs" if "cuda" in target.features else self.missing()

    def expose(self, program: Program, target: Target, folder: Path, names: Sequence[str], out: Path) -> list[str]:
        """Write into ``out`` the model in ``folder`` with quantized values as further outputs.

        ``names`` are those of the quantize nodes of ``program``; returned are those that the model outputs, in order,
        quantized or dequantized. All other values must be computed by the same kernels as in ``folder``. By default the
        program is built again with more outputs. Raises BackendError.
        """
        from fxopt.ir.with_outputs import with_outputs

        self.build(with_outputs(program, names), target, out)
        return list(names)

    def elsewhere(self, manifest: Manifest) -> str | None:
        """Why an artifact does not run on this machine, or would compute other values; None if it runs, as most do."""
        return None

    def stand_in(self, folder: Path, manifest: Manifest) -> Runner | None:
        """A runner with other kernels but the same values, for an artifact that does not run on this machine; None without one.

        A build for another machine is checked and evaluated with it, and never timed.
        """
        return None

    def suits(self, target: Target) -> dict[str, str]:
        """Target-specific decisions, by subject, with the reason."""
        return {}

    def candidates(self, target: Target) -> tuple[Backend, ...]:
        """The backends that a build tries its whole recipe with, to keep the fastest; only itself by default."""
        return (self,)

    def alternatives(self, target: Target) -> tuple[Backend, ...]:
        """Copies with another quantization policy, for a backend that tries several; itself first."""
        return (self,)

    def variants(self) -> tuple[Backend, ...]:
        """Copies that run the same artifact with other runtime options, itself first; options that are set stay."""
        return (self,)

    def tune(self, program: Program, target: Target, seconds: float) -> Backend:
        """Return a copy with the options that measured best on the target within about ``seconds``; itself by default."""
        return self

    def __str__(self) -> str:
        changed = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default
        }
        return format_call(self.name, changed)


def find_backend(spec: str) -> Backend:
    """A backend from its text form. Raises UnknownNameError and OptionError."""
    from fxopt import registry

    name, options = parse_call(spec, "backend")
    cls: type[Backend] = registry.get("backend", name)
    known = [f.name for f in dataclasses.fields(cls)]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of the backend {name}", option, known)
    return cls(**options)


def not_installed(packages: tuple[str, ...], extra: str) -> str | None:
    """The first of the packages that is not installed, with the extra of fxopt that has it; None if all are."""
    absent = next((name for name in packages if importlib.util.find_spec(name) is None), None)
    return f"{absent} is not installed: pip install 'fxopt[{extra}]'" if absent else None


def check_lowerable(backend: Backend, program: Program) -> None:
    """Ask the backend about every node. Raises BackendError that lists all that it refuses, with source lines."""
    refused = [(n, r) for n in program.graph.nodes if n.op == "call_function" and (r := backend.refuses(n))]
    if refused:
        lines = [f"    {program.describe(node)}\n      {reason}" for node, reason in refused[:20]]
        more = f"\n    … and {len(refused) - 20} more" if len(refused) > 20 else ""
        raise BackendError(
            f"the backend {backend.name!r} cannot lower {len(refused)} node(s):\n" + "\n".join(lines) + more,
            way_out="each reason names another way; what each backend lowers is in the table of operators in the docs",
        )


def refuses_training(node: fx.Node) -> str | None:
    """Why a norm in training mode cannot be lowered: none is, as it updates statistics; None for any other node."""
    from fxopt.ir.op_table import updates_statistics
    from fxopt.ir.printer import op_name

    if not updates_statistics(node):
        return None
    return f"{op_name(node)} is in training mode, and takes the statistics of each batch; capture the model after model.eval()"


_LARGEST = 64_000_000
"""Bytes of the largest JSON file of an artifact that is read."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of an artifact. Raises BackendError if it is missing, broken, or no file."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > _LARGEST:
            raise ValueError(f"{status.st_size} bytes; at most {_LARGEST} are read")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BackendError(f"{path}: {error}", way_out="is this the folder of an artifact? build it again") from None
    if not isinstance(value, dict):
        raise BackendError(f"{path}: not a JSON object")
    return value
