"""Cast weights and computation to half precision."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_doc import Doc
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import Trait, family, find_quantized, has
from fxopt.passes.precision.choose_half import HalfChoice, choose_half

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@graph_pass(kind="approx", stage="numeric")
def cast_floats(
    program: Program,
    *,
    dtype: Annotated[Literal["float16", "bfloat16"], Doc("What weights and computation are cast to.")] = "float16",
    keep_float: Annotated[tuple[str, ...], Doc("Weights or modules that stay in float32, with wildcards.")] = (),
) -> None:
    """Cast float32 weights and computation to float16 or bfloat16; inputs and outputs stay float32.

    float16 keeps 11 bits of each number up to 65504, bfloat16 8 bits in the range of float32. Files are half the size.
    Speed is the device's: a processor without such arithmetic casts to float32 and back around every op.

    In float32 stay norms, softmax, sums, and functions that magnify rounding, as PyTorch's automatic mixed precision has
    them; ops that are not in the table; memory that is written to; and what lies between such values alone. So does a
    layer whose weight is beyond the range of ``dtype``, which is reported with its name, and what reads a constant that is
    beyond it or zero in it, such as the fill of a mask or a small epsilon. ``keep_float`` names weights or modules, with
    wildcards, that stay in float32 too. Fold batch norms before, so that they need not stay.

    A value that overflows on the way is seen where it makes an output infinite, and the pass fails: take bfloat16, or
    keep_float. Raises PassError for a program that is quantized.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[4,8]
        %y = aten.linear(%x, %w)
        %z = aten.softmax.int(%y, 1)
        return %z
    after:
        %x : f32[2,8]
        %h = aten.to.dtype(%x, f16)
        %w = param "fc.weight" : f16[4,8]
        %y = aten.linear(%h, %w)
        %f = aten.to.dtype(%y, f32)
        %z = aten.softmax.int(%f, 1)
        return %z
    """
    quantized = find_quantized(program.graph)
    if quantized is not None:
        raise program.fail(quantized, "the program is quantized: its float values belong to its scales")
    choice = choose_half(program, _DTYPES[dtype], keep_float)
    for node, reason in choice.reasons.items():
        program.skip(node, reason)
    _Caster(program, choice, _DTYPES[dtype]).run()


class _Caster:
    """Writes a choice into the graph."""

    def __init__(self, program: Program, choice: HalfChoice, dtype: torch.dtype) -> None:
        self._program, self._choice, self._dtype = program, choice, dtype
        self._half = set(choice.half)
        self._casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}

    def run(self) -> None:
        """Store weights, then give every node its operands in the precision that it computes in."""
        self._store_weights()
        for node in list(self._program.graph.nodes):
            if has(node, Trait.READS_FORM_ONLY) and family(node) == "check" and node.args[0] in self._half:
                self._program.graph.erase_node(node)  # it checks for float32
            elif node.op == "output" or (node.op == "call_function" and family(node) not in ("size", "check")):
                self._cast_operands(node)

    def _store_weights(self) -> None:
        """Store in half precision what only half-precision nodes read; anything else is cast as it is read."""
        program, weights = self._program, self._program.tensors()
        nodes: dict[int, list[fx.Node]] = {}
        for node in program.graph.nodes:
            tensor = weights.get(str(node.target)) if node.op == "get_attr" else None
            if tensor is not None and tensor.dtype == torch.float32:
                nodes.setdefault(id(tensor), []).append(node)
        for same in nodes.values():
            users = [user for node in same for user in node.users]
            if self._choice.written.isdisjoint(same) and all(user in self._choice.half for user in users):
                tensor = weights[str(same[0].target)].detach().to(self._dtype)
                program.set_tensor(str(same[0].target), tensor)
                self._half.update(same)
            elif any(user in self._choice.half for user in users):
                other = next(user for user in users if user not in self._choice.half)
                program.skip(same[0], f"stored in float32 and cast at every run, as %{other.name} reads it so")

    def _cast_operands(self, node: fx.Node) -> None:
        wanted = self._wanted(node)

        def operand(source: fx.Node) -> fx.Node:
            value = source.meta.get("val")
            if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
                return source
            here = self._dtype if source in self._half else torch.float32
            return source if here == wanted else self._cast(source, wanted, node)

        node.args = fx.node.map_arg(node.args, operand)
        node.kwargs = fx.node.map_arg(node.kwargs, operand)

    def _wanted(self, node: fx.Node) -> torch.dtype:
        if node in self._choice.half:
            return self._dtype
        sources: list[Any] = [source.meta.get("val") for source in node.all_input_nodes]
        floats = [
            source
            for source, value in zip(node.all_input_nodes, sources, strict=True)
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32
        ]
        discrete = node.op != "output" and node not in self._choice.reasons and not _floating(node)
        return self._dtype if discrete and floats and self._half.issuperset(floats) else torch.float32

    def _cast(self, source: fx.Node, dtype: torch.dtype, reader: fx.Node) -> fx.Node:
        if (source, dtype) in self._casts:
            return self._casts[source, dtype]
        graph, late = self._program.graph, source in self._choice.written
        first = reader if late else self._program.inputs()[-1].next if source.op == "placeholder" else source.next
        with graph.inserting_before(first):
            cast = graph.call_function(torch.ops.aten.to.dtype, (source, dtype))
        cast.meta["stack_trace"] = source.meta.get("stack_trace")
        if not late:
            self._casts[source, dtype] = cast
        return cast


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in values)
