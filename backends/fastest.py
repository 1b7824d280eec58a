"""The backend that chooses among backends by measurement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_doc import Doc

from fxopt.backend import Backend, find_backend
from fxopt.errors import BackendError, UsageError

if TYPE_CHECKING:
    from fxopt.ir.program import Program
    from fxopt.target import Target

_REFERENCE = "eager"
"""It runs everything and is quick at nothing, so it is no candidate while there is another."""


@dataclass(frozen=True)
class Fastest(Backend):
    """Build with whichever backend, precision and options measure fastest on the target.

    Every backend that is installed, or those of ``among``, runs the whole recipe, with what is
    quantized as its own kernels want it; so does the program that the recipe leaves in float. All are timed side by side
    with the options of their runtimes, and the fastest is built that holds the budget. A precision below float32 is a
    candidate for a program in float where the budget has a ``metric_drop`` and keeps it, or where the recipe quantizes
    and it adds less noise than that. The artifact is that of the backend chosen, and the report has all that was tried.
    """

    name: ClassVar[str] = "fastest"
    among: Annotated[tuple[str, ...], Doc("Backends to try, with their options; all that are installed if empty.")] = ()

    def cannot_build(self, target: Target) -> str | None:
        """That the target is another machine, which nothing can be measured on without an address."""
        from fxopt.target.detect import not_here

        away = target.address is None and not_here(target)
        return "it measures on the target, which has no address" if away else None

    def candidates(self, target: Target) -> tuple[Backend, ...]:
        """The backends to try. Raises UsageError for a target that nothing can be timed on, and UnknownNameError."""
        from fxopt import registry
        from fxopt.runtime.device import cannot_time

        if reason := cannot_time(target):
            raise UsageError(
                f"{self} measures on the target, and {reason}",
                way_out=(
                    "give the target the address of a device, run the build there with -t host, or name a "
                    "backend: -b onnx"
                ),
            )
        if self.among:
            found = tuple(dict.fromkeys(map(find_backend, self.among)))
            if nested := next((b for b in found if isinstance(b, Fastest)), None):
                raise UsageError(f"{self}: {nested} cannot be among its own candidates; name backends such as 'onnx'")
            return found
        names = [name for name in registry.names("backend") if name not in (self.name, _REFERENCE)]
        others = tuple(b for name in names for b in find_backend(name).alternatives(target))
        return others if any(b.missing() is None for b in others) else (*others, find_backend(_REFERENCE))

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Refuse: a choice is made for a whole recipe, and another backend builds. Raises BackendError."""
        raise BackendError(
            f"{self} chooses a backend for a whole recipe: fxopt build MODEL -b fastest, or fxopt.build(Recipe(…), "
            "out)",
            way_out="to build or analyse a single program, name a backend such as onnx",
        )
