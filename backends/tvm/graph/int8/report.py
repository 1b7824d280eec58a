"""For the report: how many convolutions and products are computed in integers, and why others are in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.frontend.provenance import stem
from fxopt.backends.tvm.graph.relax_utils import op_name
from fxopt.backends.tvm.machine.dot_instructions import REPORTED_NAMES

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Call, Facts, Var

_CONTRACTIONS = ("relax.nn.conv2d", "relax.matmul")


def integer_facts(lowering: Lowering) -> Facts:
    """The counts; of a quantized program also the reasons, and the instruction."""
    floats, integers = lowering.float_contractions, lowering.integer_contractions
    counts = {"integer_contractions": integers.total(), "float_contractions": len(floats)}
    if not any(value.quantized is not None or value.weight is not None for value in lowering.values()):
        return counts
    kinds = [kind for kind, _ in integers.most_common() if kind != "depthwise"] or [lowering.instruction.kind]
    return counts | {"float_because": floats, "integer_instruction": ", ".join(REPORTED_NAMES[kind] for kind in kinds)}


def note_float_contraction(lowering: Lowering, var: Var, call: Call) -> None:
    """Note that a convolution or product is computed in float, and why; nothing of other ops."""
    if op_name(call) not in _CONTRACTIONS:
        return
    data, weight = (lowering.value(arg) for arg in call.args[:2])
    if data.affine is None and weight.affine is None and weight.weight is None:
        why = "neither side of it comes out of a dequantize op"
    elif data.affine is None or data.affine.params is None:
        why = "its input does not come out of a dequantize op"
    elif weight.affine is not None:
        why = "its right side does not come out of a dequantize op, or sizes of the two vary or differ"
    elif weight.weight is None:
        why = "its weight is not stored as int8"
    else:
        why = "its quantized operands have shapes or layouts that there is no integer kernel for"
    lowering.float_contractions.append(f"{lowering.provenance.get(stem(var.name), call.op.name)}: {why}")
