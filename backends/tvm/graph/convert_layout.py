"""Layout conversion: convolutions, and the ops between them, work on NCHWc, [n, C / L, H, W, L].

Any number of channels is stored so, padded to whole vectors. The padding is finite and does not affect results: weights have
zeros there, and reductions over channels work on NCHW. A value has both layouts only if it is read in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.frontend.provenance import PROVENANCE, stem
from fxopt.backends.tvm.graph.fold_constants import fold
from fxopt.backends.tvm.graph.int8.report import integer_facts, note_float_contraction
from fxopt.backends.tvm.graph.lowering import Lowering
from fxopt.backends.tvm.graph.relax_utils import op_name
from fxopt.backends.tvm.graph.rules import TUPLE_ITEM, rules_of
from fxopt.backends.tvm.tiling.task import Choices

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Binding, IRModule


def convert_layout(module: IRModule, choices: Choices) -> IRModule:
    """The module with convolutions and matrix products as kernels in tiles by ``choices``.

    Returns the module itself where ``main`` has control flow.
    """
    from tvm import relax

    main = module["main"]
    if not all(isinstance(block, relax.DataflowBlock) for block in main.body.blocks):
        return module
    attributes = {key: value for key, value in main.attrs.items() if key != "global_symbol"} if main.attrs else {}
    provenance = {str(name): str(text) for name, text in attributes.pop(PROVENANCE, {}).items()}
    lowering = Lowering(choices, provenance)
    builder = lowering.builder
    with builder.function("main", list(main.params), attrs=attributes):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    _lower(lowering, binding)
            result = builder.emit_output(lowering.plain(main.body.body))
        builder.emit_func_output(result)
    choices.facts.update(integer_facts(lowering))
    made = builder.get()
    for name, function in module.functions_items():
        if name.name_hint != "main":
            made[name] = function  # a kernel that the importer wrote, as that of a recurrent layer
    return made


def _lower(lowering: Lowering, binding: Binding) -> None:
    """Lower one binding: by the quantized rule, as a constant, by the float rule of its op, or unchanged."""
    from tvm import relax
    from tvm.ir import Call, Op

    var, expr = binding.var, binding.value
    value = lowering.value(var)
    lowering.stem = stem(var.name)
    if isinstance(binding, relax.MatchCast):
        value.plain = lowering.builder.match_cast(lowering.plain(expr), binding.ty)
        return
    rule = None
    if isinstance(expr, relax.TupleGetItem):
        rule = rules_of(TUPLE_ITEM).plain
    elif isinstance(expr, Call) and isinstance(expr.op, Op):
        rules = rules_of(op_name(expr))
        if rules.quantized is not None and rules.quantized(lowering, var, expr):
            return
        note_float_contraction(lowering, var, expr)
        value.constant = fold(expr, [lowering.constant(arg) for arg in expr.args])
        if value.constant is not None:
            return
        rule = rules.plain
    if rule is None or not rule(lowering, var, expr):
        value.plain = lowering.emit(lowering.plain(expr))
