"""RMS norms in the one form in which ONNX Runtime finds them, to run each as one kernel, ``SimplifiedLayerNormalization``.

The form is of ONNX's own operators: x² as a power, a quotient by the root, and a weight that multiplies it. torch exports a
product with the reciprocal of the root, in which the runtime finds nothing.
"""

from __future__ import annotations

import torch
from torch import fx

from fxopt.backends.onnx.shaped_calls import call
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.rms_norm import WrittenRMSNorm, match_rms_norm, unchanged_source
from fxopt.ir.shared_copy import shared_copy

aten = torch.ops.aten


def use_norm_kernels(program: Program) -> Program:
    """Return a copy in which RMS norms are ``x / sqrt(mean(x ** 2) + eps) * weight``, as the runtime finds them.

    They are where :func:`norm_written_out` has no reason. One without a weight gets ones. The program itself where it has no
    such norm.
    """
    if not any(map(_norm_of, program.find("aten.rsqrt"))):
        return program
    twin = shared_copy(program)
    for norm in filter(None, map(_norm_of, twin.find("aten.rsqrt"))):
        square, root, product = norm.square, norm.root, norm.product
        square.target, square.args, square.kwargs = aten.pow.Tensor_Scalar, (norm.value, 2), {}
        root.target = aten.sqrt.default
        product.target, product.args, product.kwargs = aten.div.Tensor, (norm.value, root), {}
        if not _has_weight(product):
            _multiply_by_ones(twin, product)
    twin.module.recompile()
    return twin


def norm_written_out(root: fx.Node) -> str | None:
    """Why the runtime's kernel is not for the RMS norm of a reciprocal root; None if it is, or where that is of no norm."""
    norm = match_rms_norm(root)
    return None if norm is None else _no_kernel(norm)


def _no_kernel(norm: WrittenRMSNorm) -> str | None:
    if norm.dims != (-1,):
        return "it is over other dims than the last"
    if not isinstance(norm.product.meta["val"].shape[-1], int):
        return "it is over a dim whose size can vary"
    if norm.product.meta["val"].dtype != torch.float32:
        return "the kernel is for float32"
    if len(norm.root.users) > 1 or len(norm.square.users) > 1:
        return "its mean or its root is read elsewhere, too"
    return None


def _norm_of(root: fx.Node) -> WrittenRMSNorm | None:
    norm = match_rms_norm(root)
    return None if norm is None or _no_kernel(norm) else norm


def _has_weight(product: fx.Node) -> bool:
    """Whether a vector multiplies the quotient, and nothing else reads it."""
    (user, *others) = product.users
    if others:
        return False
    if unchanged_source(user) is product:
        return _has_weight(user)
    if op_name(user) != "aten.mul.Tensor":
        return False
    factors = [n.meta["val"] for n in user.args[:2] if isinstance(n, fx.Node) and n is not product]
    return any(value.shape == product.meta["val"].shape[-1:] for value in factors)


def _multiply_by_ones(program: Program, product: fx.Node) -> None:
    width = product.meta["val"].shape[-1]
    with program.graph.inserting_after(product):
        ones = program.add_tensor(f"{product.name}_ones", torch.ones(width), product)
        scaled = call(program, aten.mul.Tensor, product, ones)
    product.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)
