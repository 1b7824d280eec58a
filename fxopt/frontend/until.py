"""A model cut at some of its submodules: what comes before them as a program, what comes after them in torch.

For a model whose post-processing sizes tensors by their values, as non-maximum suppression does.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils import _pytree as pytree

from fxopt.errors import CaptureError, UnknownNameError, UsageError
from fxopt.frontend.replaced_forward import replaced_forward
from fxopt.numerics.module_state import copied, unchanged


class _Reached(BaseException):
    """All of the submodules have returned; not an Exception, so that no handler in the model catches it."""


@contextlib.contextmanager
def stopped_at(module: torch.nn.Module, until: str | Sequence[str]) -> Iterator[None]:
    """Let ``module`` stop after the submodules ``until`` and return their outputs, as a tuple for several.

    Of a submodule that runs several times it is the first call. Raises UnknownNameError for a path that the module does
    not have; the call raises CaptureError where one of them is not reached.
    """
    paths = (until,) if isinstance(until, str) else tuple(until)
    parts = _parts(module, paths)
    forward: Callable[..., Any] = module.forward
    found: dict[str, Any] = {}

    def note(path: str, output: Any) -> None:
        found.setdefault(path, output)
        if len(found) == len(paths):
            raise _Reached

    @functools.wraps(forward)
    def up_to_there(*args: Any, **kwargs: Any) -> Any:
        found.clear()
        try:
            with _module_stack():
                forward(*args, **kwargs)
        except _Reached:
            return found[paths[0]] if isinstance(until, str) else tuple(found[path] for path in paths)
        missed = ", ".join(repr(path) for path in paths if path not in found)
        raise CaptureError(
            f"until: {missed} is not called when {type(module).__name__} runs on the example inputs",
            way_out="name submodules that are, such as the last one before the values are looked at",
        )

    with contextlib.ExitStack() as stack:
        for path, part in parts.items():
            hook = part.register_forward_hook(lambda m, a, output, path=path: note(path, output))
            stack.callback(hook.remove)
        stack.enter_context(replaced_forward(module, up_to_there))
        yield


@dataclass(frozen=True)
class Tail:
    """The rest of a model after the submodules ``until``: ``tail(outputs, *args, **kwargs)`` returns the model's outputs.

    ``outputs`` are those of the program that was captured with the same ``until``, or of an artifact of it, and ``args``
    and ``kwargs`` the model's inputs. The model runs in torch as written, with these outputs in place of the submodules;
    before them only shapes are computed. Raises UsageError where the rest reads other values from before them,
    UnknownNameError for a path that the module does not have.
    """

    module: torch.nn.Module
    until: str | tuple[str, ...]

    def __call__(self, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the rest of the model on the outputs of the program before it."""
        paths = (self.until,) if isinstance(self.until, str) else self.until
        given = dict(zip(paths, [outputs] if isinstance(self.until, str) else outputs, strict=True))
        given = pytree.tree_map(lambda v: torch.as_tensor(v) if hasattr(v, "__array__") else v, given)
        left = list(paths)
        where = "after " + ", ".join(map(repr, paths))
        with unchanged(self.module), torch.no_grad(), contextlib.ExitStack() as stack, contextlib.ExitStack() as shapes:
            for path, part in _parts(self.module, paths).items():

                def answer(*args: Any, path: str = path, **kwargs: Any) -> Any:
                    if path not in left:
                        raise UsageError(f"{path!r} runs several times, so that one output of it is not enough")
                    left.remove(path)
                    if not left:
                        shapes.close()
                    return given[path]

                stack.enter_context(replaced_forward(part, answer))
            shapes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            try:
                result = self.module(*copied(args), **copied(kwargs))
            except UsageError:
                raise
            except Exception as error:
                raise self._reads_before(f"{where}, {type(self.module).__name__} fails: {error}") from error
        if any(isinstance(leaf, FakeTensor) for leaf in pytree.tree_leaves(result)):
            raise self._reads_before(f"{where}, {type(self.module).__name__} returns values from before")
        return result

    def _reads_before(self, what: str) -> UsageError:
        return UsageError(what, way_out="values that are read there must be among the outputs: name more submodules")


def called_once(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Paths of the submodules that run once, in the order in which they return."""
    done: list[str] = []
    with unchanged(module), torch.no_grad(), contextlib.ExitStack() as stack:
        for path, part in module.named_modules():
            hook = part.register_forward_hook(lambda m, a, output, path=path: done.append(path))
            stack.callback(hook.remove)
        module(*copied(args), **copied(kwargs))
    return [path for path in done if path and done.count(path) == 1]


def outermost(paths: Sequence[str]) -> tuple[str, ...]:
    """The paths that are not inside another of them."""
    return tuple(path for path in paths if not any(path.startswith(f"{other}.") for other in paths))


def _parts(module: torch.nn.Module, paths: Sequence[str]) -> dict[str, torch.nn.Module]:
    known = dict(module.named_modules(remove_duplicate=False))
    for path in paths:
        if not path or path not in known:
            raise UnknownNameError(f"submodule of {type(module).__name__}", path, [name for name in known if name])
    return {path: known[path] for path in paths}


@contextlib.contextmanager
def _module_stack() -> Iterator[None]:
    """Restore torch's stack of running modules when traced: an exception leaves it as it is."""
    mode = get_proxy_mode()
    stack = getattr(mode.tracer, "module_stack", None) if mode is not None else None
    depth = len(stack) if stack is not None else 0
    try:
        yield
    finally:
        while stack is not None and len(stack) > depth:
            stack.popitem()
