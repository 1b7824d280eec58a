"""Weights with a scale for each block, in the form that the runtime multiplies by, or unpacks once as it loads.

Measured in ONNX Runtime 1.32 on a CPU with AVX-512, one thread, a linear of 1024 → 4096, blocks of 32; float: 0.62 ms for
one row. MatMulNBits with 4 bits takes 0.38 ms and with 8 bits 24 ms, as it has no kernel for 8 bits and float activations
and unpacks the weight at every run. So does a DequantizeLinear in front of a Gemm (13 ms); in front of a MatMul the
runtime makes a MatMulNBits of it which rounds the activations to 8 bits, unless a session option forbids it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch.nn import functional as F

from fxopt.ir.op_table import PRODUCT_OPERANDS, arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy

_GROUPED = "quantized_decomposed.dequantize_per_channel_group"
_KERNEL_BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes of the runtime's 4-bit kernels."""


@dataclass(frozen=True)
class _Packed:
    """uint8 ``codes`` [out, blocks, block / 2], float32 ``scales`` [out, blocks], of rows of ``inputs``."""

    name: str
    codes: torch.Tensor
    scales: torch.Tensor
    block: int
    inputs: int


def use_block_kernels(program: Program) -> Program:
    """Return a copy in which linears and matrix products read 4-bit weights through MatMulNBits, two codes a byte.

    Other dequantize ops in blocks become a cast, a product and reshapes, which the runtime folds as it loads. The program
    itself where it has none of these.
    """
    if not any(program.find(_GROUPED)):
        return program
    twin = shared_copy(program)
    stored: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
    for layer in twin.find(*PRODUCT_OPERANDS):
        source = arguments(layer)[PRODUCT_OPERANDS[op_name(layer)][1]]
        packed = _packed(twin, layer, source) if _is_plain(layer) else None
        if packed is not None:
            if source not in stored:
                codes = twin.add_tensor(f"{packed.name}_packed", packed.codes, layer)
                stored[source] = codes, twin.add_tensor(f"{packed.name}_scales", packed.scales, layer)
            _call_kernel(twin, layer, packed, *stored[source])
    for node in twin.find(_GROUPED):
        _write_out(twin, node)
    twin.graph.eliminate_dead_code()
    twin.module.recompile()
    return twin


def _is_plain(layer: fx.Node) -> bool:
    call = arguments(layer)
    plain = (call.get("alpha", 1), call.get("beta", 1)) == (1, 1)
    return plain and bool(call[PRODUCT_OPERANDS[op_name(layer)][0]].meta["val"].dim() > 1)


def _packed(program: Program, layer: fx.Node, source: fx.Node) -> _Packed | None:
    """The weight [out, in] of a linear, or [in, out] of a product, if it is dequantized from 4-bit codes in blocks."""
    node = source
    if op_name(layer) != "aten.linear":
        if op_name(node) != "aten.transpose.int" or tuple(node.args[1:]) != (0, 1):
            return None
        node = node.args[0]  # type: ignore[assignment]
    inputs = node.meta["val"].shape[1] if node.op == "call_function" else 0
    if op_name(node) == "aten.slice.Tensor" and tuple(node.args[1:]) == (1, 0, inputs):
        node = node.args[0]  # type: ignore[assignment]
    if op_name(node) != _GROUPED or node.meta["val"].dtype != torch.float32:
        return None
    call = arguments(node)
    codes, scales = program.tensor(call["input"]), program.tensor(call["scales"])
    four_bits = (call["quant_min"], call["quant_max"]) == (-8, 7) and call["zero_points"] is None
    if codes is None or scales is None or not four_bits:
        return None
    return _pack(str(call["input"].target), codes, scales.detach().reshape(len(codes), -1), call["group_size"], inputs)


def _pack(name: str, codes: torch.Tensor, scales: torch.Tensor, group: int, inputs: int) -> _Packed | None:
    """Blocks of a size that there is a kernel for: a larger group becomes several of one scale. None where none fits."""
    if scales.shape[1] == 1:
        block = next((size for size in _KERNEL_BLOCKS if size >= inputs), _KERNEL_BLOCKS[-1])
    else:
        block = max((size for size in _KERNEL_BLOCKS if group % size == 0), default=0)
    if not block:
        return None
    blocks = -(-inputs // block)
    repeats = blocks if scales.shape[1] == 1 else group // block
    padded = F.pad(codes[:, :inputs], (0, -inputs % block)).to(torch.int16) + 8  # the kernel's zero is 8
    low, high = padded.reshape(len(codes), blocks, block // 2, 2).unbind(-1)
    repeated = scales.repeat_interleave(repeats, 1)[:, :blocks].contiguous()
    return _Packed(name, (low + 16 * high).to(torch.uint8), repeated, block, inputs)


def _call_kernel(program: Program, layer: fx.Node, packed: _Packed, codes: fx.Node, scales: fx.Node) -> None:
    call, graph = arguments(layer), program.graph
    x, bias = call[PRODUCT_OPERANDS[op_name(layer)][0]], call.get("bias")
    outputs = len(packed.codes)
    numbers = {
        "K": packed.inputs, "N": outputs, "bits": 4, "block_size": packed.block, "accuracy_level": 0,
    }  # fmt: skip
    with graph.inserting_before(layer):
        shape = [
            size if isinstance(size, int) else graph.call_function(torch.ops.aten.sym_size.int, (x, dim))
            for dim, size in enumerate(x.meta["val"].shape[:-1])
        ]
        product = graph.call_function(
            torch.onnx.ops.symbolic,
            ("com.microsoft::MatMulNBits", [x, codes, scales, None, None, bias], numbers),
            {"dtype": torch.float32, "shape": [*shape, outputs], "version": 1},
        )
    if op_name(layer) == "aten.addmm":
        product = program.call(torch.ops.aten.add.Tensor, product, call["self"], like=product)
    program.replace(layer, product)


def _write_out(program: Program, node: fx.Node) -> None:
    """Compute ``(code - zero point) · scale`` by ordinary ops."""
    call, aten = arguments(node), torch.ops.aten
    rows, columns = node.meta["val"].shape
    groups = (rows, columns // call["group_size"])
    with program.graph.inserting_before(node):
        insert = program.graph.call_function
        value = insert(aten.to.dtype, (call["input"], call["output_dtype"]))
        value = insert(aten.reshape.default, (value, [*groups, call["group_size"]]))
        if call["zero_points"] is not None:
            shift = insert(aten.reshape.default, (call["zero_points"], [*groups, 1]))
            value = insert(aten.sub.Tensor, (value, shift))
        value = insert(aten.mul.Tensor, (value, insert(aten.reshape.default, (call["scales"], [*groups, 1]))))
        value = insert(aten.reshape.default, (value, [rows, columns]))
    program.replace(node, value)
