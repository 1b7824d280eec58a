"""Every error a user can cause, with the exit code that the command line gives for it.

::

    FxoptError                    what happened, where, expected and got, the way out
    ├── UsageError          (2)   a command, recipe, name or option is wrong
    │   ├── UnknownNameError      no such pass, backend, target, model or key; names the nearest
    │   ├── OptionError           an option of the wrong type or outside its range
    │   └── RecipeError           a recipe or model file that cannot be read
    ├── CaptureError        (3)   the model cannot become a Program
    ├── PassError           (3)   a pass failed
    │   ├── PassCrashError        by an error that nobody wrote for users, most often a bug in it
    │   ├── VerifyError           a pass broke the graph, the interface or the numbers
    │   └── DataError             a pass needs data that is absent or unusable
    ├── ResourceError       (4)   a disk or memory is full
    ├── BackendError        (4)   a backend refused or failed
    │   ├── DisagreementError     an artifact computes other values than its program
    │   └── DeviceError           a device is not there, is another than expected, or failed
    │       └── ComputeDeviceError    so did one to train and calibrate on
    └── BudgetError         (1)   everything worked, but a budget or a check was missed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, overload


class FxoptError(Exception):
    """Base of all errors that fxopt raises on purpose. ``str`` of it is written for the user; programs read the fields.

    ``what`` happened; ``step``, the pass and its place in the pipeline; ``node``, as text; ``source``, the user's line that
    the node came from; ``expected`` and ``got``; ``way_out``, what the user can do; ``doc``, the page that explains it. All
    but ``what`` and ``doc`` are None where they do not apply.
    """

    exit_code = 3
    doc = "docs/index.md"

    def __init__(
        self,
        what: str = "",
        *,
        step: str | None = None,
        node: str | None = None,
        source: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        way_out: str | None = None,
    ) -> None:
        super().__init__(shown(what))
        self.what, self.step, self.node, self.source = shown(what), shown(step), shown(node), shown(source)
        self.expected, self.got, self.way_out = shown(expected), shown(got), shown(way_out)

    def __str__(self) -> str:
        first = self.what if self.step is None else self._at(self.step)
        rest = (
            ("    ", self.node), ("    expected ", self.expected), ("    got      ", self.got), ("  ", self.way_out)
        )  # fmt: skip
        return "\n".join([first, *(label + value for label, value in rest if value is not None)])

    def _at(self, step: str) -> str:
        """What happened, with the step before it."""
        return f"in {step}: {self.what}"

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, with the name of the class and its exit code, as JSON holds them."""
        names = ("what", "step", "node", "source", "expected", "got", "way_out", "doc")
        known = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {"error": type(self).__name__, "exit_code": self.exit_code, **known}


_LINE, _LINES = 1000, 400
"""Most characters of a line, and lines of a field, that a message has: it may quote a file of a megabyte."""


@overload
def shown(text: str) -> str: ...
@overload
def shown(text: None) -> None: ...
def shown(text: str | None) -> str | None:
    """Text as a terminal may show it: long lines are cut in the middle, and control characters are escaped."""
    if text is None:
        return None
    lines = text.split("\n")
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], f"… {len(lines) - _LINES} more lines"]
    return "\n".join(_escaped(_cut(line)) for line in lines)


def _cut(line: str) -> str:
    half = _LINE // 2
    return line if len(line) <= _LINE else f"{line[:half]} […{len(line) - 2 * half} characters…] {line[-half:]}"


def _escaped(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line)


def text_of(error: BaseException) -> str:
    """The message of any exception, also of one whose own ``__str__`` fails."""
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


def last_line(error: BaseException) -> str:
    """The last line of a message, which has the reason in those of compiled libraries, after their trace."""
    lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class UsageError(FxoptError):
    """A command, a recipe, a name or an option is wrong."""

    exit_code = 2
    doc = "docs/build.md"


class UnknownNameError(UsageError):
    """A name that nothing is registered under; the message gives the nearest ones."""

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        near = nearest(name, known)
        message = f"unknown {what} {name!r}"
        if near:
            message += "; did you mean " + " or ".join(repr(n) for n in near) + "?"
        elif known:
            message += f"; there are: {', '.join(known)}"
        super().__init__(message, way_out=hint or None)
        self.name, self.nearest = name, near


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most three names that one may have meant: that begin with, end with or hold it, as pi5 raspberry_pi_5; else alike."""
    known = sorted(known)
    plain = {each: _letters(each) for each in known}
    wanted = _letters(name)
    holding = [each for each in known if len(wanted) > 1 and wanted in plain[each]]
    alike = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return list(dict.fromkeys([*(each for each in holding if each in alike), *holding[:3], *alike]))[:3]


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


class OptionError(UsageError):
    """An option of the wrong type or outside its range."""


class RecipeError(UsageError):
    """A recipe or a model file that cannot be read as one."""


class CaptureError(FxoptError):
    """The model cannot become a Program; the message names the line and the way out.

    ``details`` is torch's own message, whole: guards, and the fixes that it suggests; None where torch said nothing.
    """

    doc = "docs/your-own-model.md"

    def __init__(self, what: str = "", *, details: str | None = None, **fields: str | None) -> None:
        super().__init__(what, **fields)
        self.details = details

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, ``details`` among them."""
        return super().to_dict() | ({} if self.details is None else {"details": self.details})


class PassError(FxoptError):
    """A pass failed; the message names the pass, its place in the pipeline and the node."""

    node_name: str | None = None
    """Name of the node that it is about, of an error that ``Program.fail`` made."""

    doc = "docs/write-a-pass.md"


class PassCrashError(PassError):
    """A pass failed by an error that is no FxoptError, which is the ``__cause__``: most often a bug in the pass."""


class VerifyError(PassError):
    """A pass broke the graph, the interface or the numbers."""

    doc = "docs/theory/verification.md"

    def __init__(self, what: str, *, step: str | None = None, **fields: str | None) -> None:
        super().__init__(what, step=step, **fields)
        self._found_after = step is not None  # by comparing what the pass left with what was before; else inside it

    def _at(self, step: str) -> str:
        return f"after {step}\n  {self.what}" if self._found_after else super()._at(step)


class DataError(PassError):
    """A pass needs data that the workload lacks, or the data cannot be used."""

    doc = "docs/your-own-model.md"


class ResourceError(FxoptError):
    """A disk or memory is full: nothing is wrong with the request."""

    exit_code = 4
    doc = "docs/build.md"


class BackendError(FxoptError):
    """A backend refused an op or failed to build, load or run."""

    exit_code = 4
    doc = "docs/write-a-backend.md"


class DisagreementError(BackendError):
    """An artifact computes other values than its program: ``what`` is wrong, and the ``way_out`` of a build for that backend."""


class DeviceError(BackendError):
    """A device cannot be reached, is another than the target says, or failed."""

    doc = "docs/devices.md"


class ComputeDeviceError(DeviceError):
    """A device to train and calibrate on is not there, or failed."""

    doc = "docs/gpu.md"


class BudgetError(FxoptError):
    """Everything worked, but a budget or a check was missed."""

    exit_code = 1
    doc = "docs/build.md"
