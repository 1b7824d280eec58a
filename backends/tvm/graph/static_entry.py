"""A static-shape entry point, specialized to the shapes of the example inputs: same kernels, memory planned ahead of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import IRModule


FIXED = "fixed"


def add_fixed_entry(module: IRModule, shapes: list[tuple[int, ...]]) -> IRModule:
    """The module with ``fixed`` besides ``main``: it takes inputs of ``shapes`` alone, and computes no sizes in a call.

    The module itself where ``main`` has no dynamic dims. Both call the same kernels.
    """
    import tvm
    from tvm import relax, tirx

    main = module["main"]
    sizes = {}
    for parameter, shape in zip(main.params, shapes, strict=False):
        for dim, size in zip(parameter.ty.shape, shape, strict=True):
            if isinstance(dim, tvm.ir.Var) and not isinstance(dim, tirx.IntImm):
                sizes[dim] = size
    if not sizes:
        return module
    copy = relax.utils.copy_with_new_vars(main.bind_symbolic_vars(sizes))
    made = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    made[FIXED] = copy.with_attr("global_symbol", FIXED)
    return made
