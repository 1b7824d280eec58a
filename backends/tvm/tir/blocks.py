"""Rebuilding TVM's blocks, kernels and allocations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import AllocBuffer, Buffer, IRModule, SBlock, Stmt


def rebuilt(block: SBlock, **changes: object) -> SBlock:
    """A block with some of its fields changed, by TVM's names for them."""
    from tvm.s_tir import SBlock

    names = (
        "iter_vars",
        "reads",
        "writes",
        "name_hint",
        "body",
        "init",
        "alloc_buffers",
        "match_buffers",
        "annotations",
    )
    return SBlock(*(changes[name] if name in changes else getattr(block, name) for name in names))


def map_kernels(module: IRModule, kind: type, change: Callable[[Stmt], Stmt]) -> IRModule:
    """The module with each statement of a kind changed, in all of its kernels."""
    import tvm
    from tvm_ffi import structural_map

    made = {}
    for name, function in module.functions.items():
        is_kernel = isinstance(function, tvm.tirx.PrimFunc)
        made[name] = function.with_body(structural_map(function.body, (kind, change))) if is_kernel else function
    return tvm.IRModule(made, attrs=module.attrs)


def on_the_stack(buffer: Buffer) -> AllocBuffer:
    """Allocate a buffer of static, small size on the stack, not from the runtime's pool."""
    from tvm import tirx

    return tirx.AllocBuffer(buffer, {"disable_lower_builtin": tirx.const(1, "bool")})
