"""Layers that quantize their input as they run, in the form for which the runtime has integer kernels."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxopt.backends.onnx.shaped_calls import size_of
from fxopt.ir.op_table import PRODUCT_OPERANDS, arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy

_RANGE = "quantized_decomposed.choose_qparams.tensor"
_QUANTIZE = "quantized_decomposed.quantize_per_tensor.tensor"
_DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor.tensor"


def use_dynamic_kernels(program: Program) -> Program:
    """Return a copy in which values that are quantized as they come are so by DynamicQuantizeLinear.

    Linears and matrix products that read them, and a weight in int8 with a scale for each output, become MatMulInteger;
    other readers get the numbers back by ordinary ops. The program itself where it has no such values.
    """
    if not any(program.find(_RANGE)):
        return program
    twin = shared_copy(program)
    integers = {node: _Integers(twin, node) for node in twin.find(_RANGE) if _is_byte(node)}
    codes: dict[fx.Node, fx.Node] = {}
    for layer in twin.find(*PRODUCT_OPERANDS):
        call, (input_name, weight_name) = arguments(layer), PRODUCT_OPERANDS[op_name(layer)]
        source = integers.get(_range_of(call[input_name]))  # type: ignore[arg-type]
        weight = call[weight_name]
        by_rows = op_name(layer) == "aten.linear"
        plain = (call.get("alpha", 1), call.get("beta", 1)) == (1, 1) and layer.meta["val"].dim() > 1
        if source is not None and plain and _is_int8(twin, weight, axis=0 if by_rows else 1):
            if weight not in codes:
                stored = arguments(weight)["input"]
                tensor = twin.tensor(stored)
                assert tensor is not None
                turned = tensor.T.contiguous() if by_rows else tensor
                codes[weight] = twin.add_tensor(f"{stored.target}_columns", turned, layer)
            source.multiply(layer, codes[weight], arguments(weight)["scales"])
    for node in twin.find(_DEQUANTIZE):
        if (source := integers.get(_range_of(node))) is not None:  # type: ignore[arg-type]
            source.write_out(node)
    twin.graph.eliminate_dead_code()
    twin.module.recompile()
    return twin


class _Integers:
    """The codes uint8 of one value, with their scale and zero point, as DynamicQuantizeLinear gives them."""

    def __init__(self, program: Program, range_: fx.Node) -> None:
        self._program = program
        value: Any = range_.args[0]
        with program.graph.inserting_before(range_):
            sizes = [size_of(program, value, dim) for dim in range(value.meta["val"].dim())]
            made = program.graph.call_function(
                torch.onnx.ops.symbolic_multi_out,
                ("DynamicQuantizeLinear", [value]),
                {"dtypes": [torch.uint8, torch.float32, torch.uint8], "shapes": [sizes, [], []], "version": 11},
            )
            self._sizes = sizes
            self._codes, self._scale, self._zero = (
                program.graph.call_function(operator.getitem, (made, i)) for i in range(3)
            )

    def multiply(self, layer: fx.Node, columns: fx.Node, scales: fx.Node) -> None:
        """Replace a layer by the product of the codes with those of a weight ``[in, out]``, which has ``scales`` [out]."""
        program, call, aten = self._program, arguments(layer), torch.ops.aten
        outputs = layer.meta["val"].shape[-1]
        with program.graph.inserting_before(layer):
            insert = program.graph.call_function
            product = insert(
                torch.onnx.ops.symbolic,
                ("MatMulInteger", [self._codes, columns, self._zero]),
                {"dtype": torch.int32, "shape": [*self._sizes[:-1], outputs], "version": 10},
            )
            product.meta["stack_trace"] = layer.meta.get("stack_trace")
            both = insert(aten.mul.Tensor, (self._scale, scales))
            real = insert(aten.mul.Tensor, (insert(aten.to.dtype, (product, torch.float32)), both))
            bias = call["self"] if op_name(layer) == "aten.addmm" else call.get("bias")
            if bias is not None:
                real = insert(aten.add.Tensor, (real, bias))
        program.replace(layer, real)

    def write_out(self, node: fx.Node) -> None:
        """Compute ``(code - zero point) · scale`` by ordinary ops."""
        aten = torch.ops.aten
        with self._program.graph.inserting_before(node):
            insert = self._program.graph.call_function
            code, zero = (insert(aten.to.dtype, (n, torch.float32)) for n in (self._codes, self._zero))
            real = insert(aten.mul.Tensor, (insert(aten.sub.Tensor, (code, zero)), self._scale))
        self._program.replace(node, real)


def _range_of(node: Any) -> fx.Node | None:
    """The op that chose scale and zero point, where ``node`` quantizes what it looked at and gives it back."""
    if not isinstance(node, fx.Node) or op_name(node) != _DEQUANTIZE:
        return None
    back = arguments(node)
    code = back["input"]
    if op_name(code) != _QUANTIZE:
        return None
    there = arguments(code)
    numbers = [(call["scale"], call["zero_point"]) for call in (there, back)]
    scale, zero = numbers[0]
    if numbers[0] != numbers[1] or op_name(scale) != "getitem" or op_name(zero) != "getitem":
        return None
    range_ = scale.args[0]
    same = zero.args[0] is range_ and (scale.args[1], zero.args[1]) == (0, 1)
    return range_ if same and op_name(range_) == _RANGE and range_.args[0] is there["input"] else None


def _is_byte(range_: fx.Node) -> bool:
    call = arguments(range_)
    return (call["quant_min"], call["quant_max"], call["dtype"]) == (0, 255, torch.uint8)


def _is_int8(program: Program, weight: Any, axis: int) -> bool:
    """Whether it is a matrix of stored int8 codes, with a scale along ``axis`` and all zero points zero."""
    if not isinstance(weight, fx.Node) or op_name(weight) != "quantized_decomposed.dequantize_per_channel":
        return False
    call = arguments(weight)
    codes, zeros = program.tensor(call["input"]), program.tensor(call["zero_points"])
    return (
        codes is not None
        and (codes.dtype, codes.dim(), call["axis"]) == (torch.int8, 2, axis)
        and zeros is not None
        and not bool(zeros.any())
    )
