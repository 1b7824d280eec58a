"""The pass interface: a frozen dataclass whose fields are its options, and ``run(program)`` that edits in place.

Most passes are a function under :func:`graph_pass`, its keyword-only parameters the options::

    @graph_pass
    def drop_relu_twice(program: Program, *, also: tuple[str, ...] = ()) -> None:
        \"\"\"First line: shown by `fxopt passes`.\"\"\"

One that needs the workload, the target, the backend, or the program from before the pipeline, takes a
:class:`~fxopt.Context` as its second parameter: ``def finetune(program: Program, context: Context, *, …) -> None``.

A pass is ``exact`` (the outputs must not change: proved in float64) or ``approx`` (the error is measured and
reported). A pass that consists of others overrides :meth:`Pass.steps`, or is a function that returns them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, Protocol, overload

from fxopt.errors import UnknownNameError
from fxopt.pass_manager.context import Context
from fxopt.support import code_stamp as code_stamp  # first: it knows since when sources may have been edited
from fxopt.support.options import check_option, type_hints

if typing.TYPE_CHECKING:
    from fxopt.ir.program import Program

Kind = Literal["exact", "approx"]
Stage = Literal["arch", "width", "rank", "recover", "exact", "numeric"]
"""Where in a recipe a search puts a pass, in this order: fewer layers, fewer channels, lower ranks, recovery of accuracy,
exact passes, number formats. Of each stage a recipe has one pass or none, and all of the exact ones."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_TAKEN = ("name", "kind", "tolerance", "assumes_finite", "stage", "one_of", "run", "steps", "options", "function")
"""Attributes of passes; an option of such a name would hide it, and ``kind='approx'`` in a recipe end the proof."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """Base of all passes. Subclasses are frozen dataclasses and set ``name`` and, where needed, the rest."""

    name: ClassVar[str] = ""
    kind: ClassVar[Kind] = "exact"
    tolerance: ClassVar[float] = 1e-9
    """Largest relative error of an exact pass in float64. A looser one needs its reason in the docstring."""
    assumes_finite: ClassVar[bool] = False
    """Whether an exact pass is exact for finite numbers only, as one that takes 0 · x for 0."""
    stage: ClassVar[Stage | None] = None
    """Where a search puts it; None for a pass that is only searched if a recipe asks for it."""
    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of options of which at most one is given: a search sets exactly one of each."""

    if typing.TYPE_CHECKING:  # a type checker cannot know the options that a function's parameters become

        def __init__(self, **options: Any) -> None: ...

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        fields = [name for name, hint in inspect.get_annotations(cls).items() if "ClassVar" not in str(hint)]
        for name in set(fields) & set(_TAKEN):
            raise TypeError(
                f"{cls.__name__}: an option may not be called {name!r}, which every pass has; rename it, or if it is "
                f"meant to be the attribute of the pass, annotate it as ClassVar"
            )

    def __post_init__(self) -> None:
        hints = type_hints(type(self))  # type: ignore[arg-type]
        for field in dataclasses.fields(self):
            value = check_option(f"{self.name}({field.name}=…)", hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def run(self, program: Program, context: Context = Context()) -> None:
        """Edit ``program`` in place; ``context`` has what else it may use.

        Report nodes left alone with ``program.skip(node, reason)``, and choices made for the user with
        ``program.chose(what, value, why)``.
        """
        raise NotImplementedError(f"{self.name} has neither run() nor steps()")

    def steps(self) -> tuple[Pass, ...]:
        """Return the passes that this one stands for; itself for a pass that does not consist of others."""
        return (self,)

    def in_rungs(self, *ends: int) -> tuple[Pass, ...]:
        """The same work in parts that continue one another, for a search that gives more of it to better candidates.

        ``ends`` are total amounts, ascending, such as epochs: the first part goes up to the first of them, the next on from
        there. A pipeline of the first parts is a prefix of that of all, so with a cache each part is run once. A pass that
        cannot be divided, as most, is one part.
        """
        return (self,)

    def options(self) -> dict[str, Any]:
        """Options that differ from their defaults, in order of declaration."""
        values = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
        return f"{self.name}({options})" if options else self.name


_P = ParamSpec("_P")
_Steps = tuple[Pass, ...]


class PassType(Protocol[_P]):
    """A class made by :func:`graph_pass`, for type checkers: it has the options of the function."""

    name: str
    kind: Kind
    tolerance: float

    def __call__(self, *args: _P.args, **options: _P.kwargs) -> Pass:
        """A pass with these options."""


class _Composite(Protocol[_P]):
    """``graph_pass(options_of=…)``."""

    def __call__(self, function: Callable[[Pass], _Steps], /) -> PassType[_P]: ...


class _GraphPass(Protocol):
    """``graph_pass`` with its arguments given."""

    @overload
    def __call__(self, function: Callable[_P, _Steps], /) -> PassType[_P]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Program, Context, _P], None], /) -> PassType[_P]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Program, _P], None], /) -> PassType[_P]: ...


@overload
def graph_pass(function: Callable[_P, _Steps], /) -> PassType[_P]: ...
@overload
def graph_pass(function: Callable[Concatenate[Program, Context, _P], None], /) -> PassType[_P]: ...
@overload
def graph_pass(function: Callable[Concatenate[Program, _P], None], /) -> PassType[_P]: ...
@overload
def graph_pass(
    *,
    kind: Kind = ...,
    tolerance: float = ...,
    assumes_finite: bool = ...,
    stage: Stage | None = ...,
    one_of: tuple[tuple[str, ...], ...] = ...,
) -> _GraphPass: ...
@overload
def graph_pass(
    *, options_of: PassType[_P], stage: Stage | None = ..., one_of: tuple[tuple[str, ...], ...] = ...
) -> _Composite[_P]: ...
def graph_pass(
    function: Callable[..., Any] | None = None,
    /,
    *,
    kind: Kind = "exact",
    tolerance: float = 1e-9,
    assumes_finite: bool = False,
    stage: Stage | None = None,
    one_of: tuple[tuple[str, ...], ...] = (),
    options_of: Any = None,
) -> Any:
    """Turn a function ``f(program, *, option: type = default, …)``, or ``f(program, context, *, …)``, into a pass.

    The result is a frozen dataclass: ``f(option=1)`` is a value, and ``f(option=1).run(program)`` calls the function.
    A function that takes no program and is annotated to return a tuple of passes becomes a pass of several. With
    ``options_of=other`` such a pass has the options and kind of another, and its function receives that pass, with them:
    ``def prune_channels(zero: Pass) -> tuple[Pass, ...]: return (zero, shrink())``.
    ``stage`` and ``one_of`` are for a search: see :class:`Pass` and :class:`fxopt.Tune`.
    Raises TypeError for any other parameter before the options, for an option without type or default, or of a name that
    every pass has, such as ``kind``.
    """
    if options_of is not None:
        said = {"kind": options_of.kind, "tolerance": options_of.tolerance, "stage": stage, "one_of": one_of}
        return functools.partial(_make_composite, options_of, said)
    said = {"kind": kind, "tolerance": tolerance, "assumes_finite": assumes_finite, "stage": stage, "one_of": one_of}
    return functools.partial(_make_pass, said=said) if function is None else _make_pass(function, said)


def _make_composite(options_of: type[Pass], said: dict[str, Any], function: Callable[[Pass], _Steps]) -> type[Pass]:
    """A pass with the fields of another, from which its function makes several passes."""
    hints = typing.get_type_hints(options_of, include_extras=True)
    fields = [(f.name, hints[f.name], dataclasses.field(default=f.default)) for f in dataclasses.fields(options_of)]

    def steps(self: Pass) -> _Steps:
        return function(options_of(**{name: getattr(self, name) for name, _, _ in fields}))

    return _make_class(function, fields, {**said, "steps": steps})


def _make_pass(function: Callable[..., Any], said: dict[str, Any]) -> type[Pass]:
    parameters = list(inspect.signature(function).parameters.values())
    composite = not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY
    second = parameters[1] if not composite and len(parameters) > 1 else None
    takes_context = second is not None and second.name == "context" and second.kind in _POSITIONAL
    hints = typing.get_type_hints(function, localns={"Program": Any, "Context": Any}, include_extras=True)
    fields: list[Any] = []
    for parameter in parameters[(not composite) + takes_context :]:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise TypeError(
                f"{function.__name__}: write the option {parameter.name!r} keyword-only, with a default; a pass takes "
                "(program, *, …), or (program, context, *, …)"
            )
        if parameter.name not in hints:
            raise TypeError(f"{function.__name__}: the option {parameter.name!r} has no type")
        fields.append((parameter.name, hints[parameter.name], dataclasses.field(default=parameter.default)))

    def call(self: Pass, *positional: Any) -> Any:
        return function(*positional, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def run(self: Pass, program: Program, context: Context = Context()) -> None:
        call(self, program, *[context] * takes_context)

    return _make_class(function, fields, said | ({"steps": call} if composite else {"run": run}))


def _make_class(function: Callable[..., Any], fields: list[Any], members: dict[str, Any]) -> type[Pass]:
    namespace = {"name": function.__name__, "__doc__": function.__doc__, "function": staticmethod(function), **members}
    made = dataclasses.make_dataclass(function.__name__, fields, bases=(Pass,), namespace=namespace, frozen=True)
    made.__module__, made.__qualname__, made.__doc__ = function.__module__, function.__qualname__, function.__doc__
    return made


def make(cls: type[Pass], options: dict[str, Any]) -> Pass:
    """Construct a pass from options by name. Raises UnknownNameError and OptionError."""
    known = [f.name for f in dataclasses.fields(cls)]
    for name in options:
        if name not in known:
            raise UnknownNameError(f"option of {cls.name}", name, known, hint=f"see `fxopt explain {cls.name}`")
    return cls(**options)
