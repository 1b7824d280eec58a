"""Weights lifted out of the code: they become arguments, stored in a file of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Expr, IRModule, Tensor, Var

_LARGE = 64
"""Elements from which on a constant is a parameter; smaller ones, such as scales and bounds, stay in the code, where LLVM sees
them. Any number that separates these from weights would do."""


def lift_parameters(module: IRModule) -> tuple[IRModule, list[Tensor]]:
    """The module with ``main`` taking its large constants after its inputs, and these in their order."""
    import tvm
    from tvm import relax
    from tvm.relax.expr_functor import PyExprMutator, mutator

    variables: dict[Expr, Var] = {}
    values: list[Tensor] = []

    @mutator
    class Lift(PyExprMutator):
        """Replaces each large constant by a variable."""

        def visit_generic_const_(self, op: Expr) -> Expr:
            """Note a constant, once."""
            if not hasattr(op.value, "numpy") or op.value.numpy().size < _LARGE:
                return op
            if op not in variables:
                variables[op] = relax.Var(f"p{len(values)}", op.ty)
                values.append(op.value)
            return variables[op]

    main = module["main"]
    body = Lift().visit_expr(main.body)
    taken = relax.Function([*main.params, *variables.values()], body, main.ret_ty, main.is_pure, main.attrs)
    made = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    made.update_func(module.get_global_var("main"), taken)
    return made, values
