"""A workload: a model's factory, example inputs, data, loss and metric in one value."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from fxopt import registry
from fxopt.errors import DataError, FxoptError, UsageError
from fxopt.support.import_user_code import import_attribute, says_it_returns
from fxopt.support.observed import is_volatile
from fxopt.support.options import call_checked
from fxopt.support.spec import parse_call

if TYPE_CHECKING:
    import torch

    from fxopt.ir.program import Program

Split = Literal["train", "validation", "test"]
Args = tuple[Any, ...]


class Data(Protocol):
    """The data of a workload, with loss and metric. All tensors are on the CPU.

    Data whose metric is measured against the model itself may say what that gives for the model, ``metric_of_original``.
    """

    @property
    def metric(self) -> str:
        """Name of the metric, higher is better, in the unit of its range (for example ``top-1``, 0 to 1)."""

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``(args, target)`` of at most ``batch_size`` examples; shuffled (and augmented) by ``seed`` if given."""

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Scalar training loss of one batch."""

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """Metric of ``model`` over a split; the model is called with tensors and may answer with numpy arrays."""


@runtime_checkable
class Counted(Protocol):
    """Data that know their number, so that training need not read an epoch to know how many steps it has."""

    def example_count(self, split: Split) -> int | None:
        """Number of examples of a split; None where it is not known."""


@runtime_checkable
class Divisible(Protocol):
    """Data whose validation split can be halved, so that a search does not evaluate on the half that it selected by."""

    def half(self, index: Literal[0, 1]) -> Data:
        """The same data with every other example of the validation split, from the first or from the second on."""


@runtime_checkable
class Distillable(Protocol):
    """Data that say how far a student's outputs are from a teacher's, where these are no class scores, as of a detector."""

    def soft_loss(self, output: Any, teacher: Any) -> torch.Tensor:
        """Scalar loss of a student's outputs against a teacher's for one batch; no label is used."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A named model with everything needed to capture, calibrate, train and evaluate it.

    ``model`` returns a module with its weights, ``inputs`` returns example ``(args, kwargs)``, and ``dynamic`` says
    which dims may vary, as in :func:`fxopt.capture`. ``data`` is None for a model without any.

    ``until`` declares a tail, as that of a detector: the program ends at these submodules, as in :func:`fxopt.capture`, and
    its outputs are what ``data`` take the loss and the metric of. :class:`fxopt.Tail` runs the rest.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    inputs: Callable[[], tuple[Args, dict[str, Any]]]
    dynamic: Any = "batch"
    until: str | tuple[str, ...] | None = None
    data: Data | None = None
    program: Callable[[], Program] | None = None
    """A model that is a Program already, from a file; None to capture ``model``."""

    def capture(self) -> Program:
        """Capture the model on its example inputs. Raises CaptureError, UsageError where its factories fail."""
        if self.program is not None:
            return self.program()
        from fxopt.frontend.capture import capture

        with _blamed(f"the inputs of {self.name!r}"):
            args, kwargs = self.inputs()
        with _blamed(f"the model of {self.name!r}"):
            model = self.model()
        return capture(model, args, kwargs, dynamic=self.dynamic, until=self.until)

    def need_data(self, who: str) -> Data:
        """Return the data, or raise DataError in the name of ``who`` needs it."""
        if self.data is None:
            raise DataError(
                f"{who} needs data, and the workload {self.name!r} has none",
                way_out="give a workload with data (see `fxopt models`), or write one: README, 'Your own model'",
            )
        return self.data

    def calibration(self, count: int, who: str) -> Iterator[Args]:
        """Yield the arguments of whole batches, at most 32, with ``count`` training examples or more; always the same.

        Fewer where the training split has no more.
        """
        yield from _first(self.need_data(who), "train", count, min(32, count))


def validation_batches(data: Data, count: int, batch_size: int) -> Iterator[Args]:
    """Yield the arguments of whole batches with ``count`` validation examples or more, or all that there are."""
    yield from _first(data, "validation", count, batch_size)


def _first(data: Data, split: Split, count: int, batch_size: int) -> Iterator[Args]:
    from fxopt.workload.batching import examples

    seen = 0
    for args, _ in data.batches(split, batch_size=batch_size):
        yield args
        seen += examples(args)
        if seen >= count:
            return


def given_workload(workload: Workload | None, who: str, what: str) -> Workload:
    """The workload that a pipeline was given, or DataError: ``who`` needs ``what``."""
    if workload is None:
        raise DataError(f"{who} needs {what}: run the pipeline with workload=…")
    return workload


def training_workload(workload: Workload | None, who: str) -> Workload:
    """The workload that a pipeline was given, which must have data to train on, or DataError in the name of ``who``."""
    workload = given_workload(workload, who, "training data")
    data = workload.need_data(who)
    if not callable(getattr(data, "loss", None)):
        raise DataError(f"{who} needs a training loss, and the data of {workload.name!r} have no loss(output, target)")
    return workload


_WANTED = "write a function, def net() -> fxopt.Workload, that returns the model with example inputs: README, 'Your own model'"


def find_workload(spec: str) -> Workload:
    """A workload from its text form.

    A registered name (``digits``), one of a zoo (``torchvision:resnet18``), both with options in brackets,
    ``module:attribute`` of the user's own code, or a ``.pt2`` file that fxopt or ``torch.export`` saved. Of a module, which
    is imported, only a Workload is taken, or a function annotated to return one: a recipe may come from anybody.
    Raises UnknownNameError, OptionError, UsageError, and RecipeError for a file that is not a program.
    """
    is_volatile(f"it reads the model {spec}")
    if spec.endswith((".pt2", ".pt", ".pth", ".onnx")) or "/" in spec.partition("(")[0]:
        return _from_file(Path(spec))
    name, options = parse_call(spec, "model")
    scheme, colon, rest = name.partition(":")
    if colon and scheme not in registry.names("workload"):
        found = _from_module(name)
        if not isinstance(found, Workload) and not says_it_returns(found, "Workload"):
            kind = (
                "function that does not say that it returns one" if inspect.isroutine(found) else type(found).__name__
            )
            raise UsageError(f"model {name!r} is no Workload but a {kind}; nothing was called", way_out=_WANTED)
    else:
        found = registry.get("workload", scheme)
    if isinstance(found, Workload):
        if options:
            raise UsageError(f"model {name!r} takes no options")
        return found
    args = (rest,) if colon and scheme in registry.names("workload") else ()
    with _blamed(f"{name}()"):
        made = call_checked(found, scheme if args else name, *args, **options)
    if not isinstance(made, Workload):
        raise UsageError(f"model {name!r}: it returned a {type(made).__name__}", way_out=_WANTED)
    return made


@contextlib.contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Say which of the user's functions failed, and at which line."""
    try:
        yield
    except FxoptError:
        raise
    except (Exception, SystemExit) as error:
        from fxopt.frontend.diagnostics import user_line

        raise UsageError(f"{what} failed: {type(error).__name__}: {error}\n    {user_line(error)}") from error


def _from_module(spec: str) -> Any:
    try:
        return import_attribute(spec)
    except (Exception, SystemExit) as error:
        known = ", ".join(registry.names("workload"))
        raise UsageError(
            f"model {spec!r}: {type(error).__name__}: {error}", way_out=f"or did you mean one of: {known}?"
        ) from error


def _from_file(path: Path) -> Workload:
    from fxopt.frontend.pt2 import load_program

    program = load_program(path)
    return Workload(
        name=str(path),
        model=lambda: program.module,
        inputs=lambda: (program.args, program.kwargs),
        program=program.copy,
    )
