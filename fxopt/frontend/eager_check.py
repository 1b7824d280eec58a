"""A module's own outputs, and whether a program agrees with them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import CaptureError, UsageError
from fxopt.frontend.checks import check_outputs
from fxopt.frontend.diagnostics import cannot_run, first_line
from fxopt.ir.program import Program
from fxopt.numerics.module_state import copied, unchanged


def run_eager(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Flat outputs of the module, without gradients. Raises CaptureError where it fails, or gives more than tensors."""
    torch.manual_seed(0)
    try:
        with unchanged(module), torch.no_grad():
            outputs = module(*copied(args), **copied(kwargs))
    except CaptureError:
        raise
    except Exception as error:
        raise cannot_run(module, args, kwargs, error) from error
    check_outputs(module, outputs)
    return pytree.tree_leaves(outputs)


def run_program(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Outputs of a captured graph, whose buffers are restored. Raises CaptureError where it fails, UsageError for a misfit."""
    torch.manual_seed(0)
    try:
        with unchanged(program.module):
            return program(*copied(args), **copied(kwargs))
    except UsageError:
        raise
    except Exception as error:
        raise CaptureError(
            f"the captured graph fails where the module runs: {type(error).__name__}: {first_line(error)}"
        ) from error


def check_same(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any], want: list[Any]) -> None:
    """Compare the captured graph with the module's own outputs; same random state, error below the root of epsilon."""
    got = pytree.tree_leaves(run_program(program, args, kwargs))
    for i, (a, b) in enumerate(zip(want, got, strict=True)):
        if not close(a, b):
            raise CaptureError(
                f"the captured graph differs from the module at output {i}",
                expected=f"{a!r:.120}",
                got=f"{b!r:.120}",
                way_out="does the model keep state between calls, or read something else than its inputs and buffers?",
            )


def close(want: Any, got: Any) -> bool:
    """Whether two outputs are equal, up to the root of the dtype's epsilon relative to the largest value."""
    if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
        return bool(want == got)
    if want.shape != got.shape or want.dtype != got.dtype:
        return False
    if not want.is_floating_point() or want.numel() == 0:
        return torch.equal(want, got)
    tolerance = torch.finfo(want.dtype).eps ** 0.5
    scale = want[want.isfinite()].abs().max().item() if want.isfinite().any() else 0.0
    return torch.allclose(got, want, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
