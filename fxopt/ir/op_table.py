"""The one table of ops: what an ATen op means to a pass, as data.

A pass asks the table instead of listing ops itself, and declines at an op that the table does not know.
Families:

==============  ==============================================================================================
unary           element by element, one tensor operand, shape kept (activations, casts, arithmetic with a number)
binary          element by element with broadcasting, two tensor operands or more
contraction     sums over a dim of one operand against another: convolution, linear, matmul, attention
norm            normalises over or with statistics: batch, layer, group, instance, RMS
softmax         softmax and log-softmax
reduce          sum, mean, max … over dims
pool            windows over spatial dims
resample        upsampling, grid sampling
layout          the same elements in another shape or order
copy            elements repeated: expand, repeat
pick            some of the elements: slice, select, split, index
join            concatenation, stacking
pad             elements added at the border
create          a tensor from sizes alone
random          draws numbers (dropout in training)
quant           quantize and dequantize
recurrent       LSTM, GRU, RNN
size            reads a size
check           asserts; computes nothing
mutate          writes into an operand
==============  ==============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxopt.ir.printer import op_name

Shape = Callable[[fx.Node], tuple[int, ...]]
"""Gives the concrete shape of a node's value."""


@dataclass(frozen=True)
class Op:
    """One row: the family, and how to count multiply-accumulates where the op has any."""

    family: str
    macs: Callable[[fx.Node, Shape], int] | None = None


def _conv(node: fx.Node, shape: Shape) -> int:
    weight = shape(node.all_input_nodes[1])  # [out, in / groups, *kernel]
    return math.prod(shape(node)) * math.prod(weight[1:])


def _conv_transpose(node: fx.Node, shape: Shape) -> int:
    weight = shape(node.all_input_nodes[1])  # [in, out / groups, *kernel]
    return math.prod(shape(node.all_input_nodes[0])) * math.prod(weight[1:])


def _last_of_first(node: fx.Node, shape: Shape) -> int:
    return math.prod(shape(node)) * shape(node.all_input_nodes[0])[-1]


def _last_of_second(node: fx.Node, shape: Shape) -> int:
    return math.prod(shape(node)) * shape(node.args[1])[-1]  # type: ignore[arg-type]


def _attention(node: fx.Node, shape: Shape) -> int:
    query, key, value = (shape(n) for n in node.args[:3])  # type: ignore[arg-type]
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(node: fx.Node, shape: Shape) -> int:
    equation = str(node.args[0]).replace(" ", "").split("->")[0]
    operands: list[fx.Node] = list(node.args[1])  # type: ignore[arg-type]
    if len(operands) < 2:
        return 0
    sizes = {
        s: n
        for term, a in zip(equation.split(","), operands, strict=True)
        for s, n in zip(term, shape(a), strict=False)
    }
    return math.prod(sizes.values())


_FAMILIES = {
    "unary": "relu relu6 gelu elu selu celu silu mish sigmoid hardswish hardsigmoid hardtanh tanh softplus leaky_relu exp log "
    "sqrt rsqrt abs neg sin cos erf reciprocal round floor ceil sign clamp clamp_min clamp_max pow.Tensor_Scalar square "
    "logical_not bitwise_not isnan threshold log_sigmoid softsign dropout feature_dropout alpha_dropout "
    "clone contiguous detach alias lift_fresh_copy to.dtype to.dtype_layout to.device to.other type_as _to_copy "
    "add.Scalar sub.Scalar mul.Scalar div.Scalar rsub.Scalar eq.Scalar ne.Scalar lt.Scalar gt.Scalar le.Scalar ge.Scalar "
    "masked_fill.Scalar nan_to_num cumsum log1p expm1",
    "binary": "add.Tensor sub.Tensor mul.Tensor div.Tensor div.Tensor_mode pow.Tensor_Tensor maximum minimum where.self "
    "where.ScalarSelf where.ScalarOther where.Scalar rsub.Tensor "
    "eq.Tensor ne.Tensor lt.Tensor gt.Tensor le.Tensor ge.Tensor logical_and logical_or bitwise_and.Tensor bitwise_or.Tensor "
    "masked_fill.Tensor prelu remainder.Tensor floor_divide atan2 __and__.Tensor __or__.Tensor lerp.Scalar",
    "norm": "batch_norm layer_norm group_norm instance_norm rms_norm _weight_norm _native_batch_norm_legit_no_training normalize",
    "softmax": "softmax.int log_softmax.int _softmax _log_softmax",
    "reduce": "mean mean.dim sum sum.dim_IntList max min amax amin argmax argmin prod any all std.correction var.correction "
    "linalg_vector_norm norm.ScalarOpt_dim max.dim min.dim topk logsumexp",
    "pool": "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool2d max_pool2d_with_indices lp_pool2d",
    "resample": "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec upsample_bilinear2d.vec "
    "upsample_bicubic2d.vec upsample_trilinear3d.vec grid_sampler _upsample_bilinear2d_aa.vec upsample_nearest2d "
    "upsample_bilinear2d",
    "layout": "view reshape flatten.using_ints unflatten.int _unsafe_view permute transpose.int t numpy_T swapaxes movedim.int "
    "movedim.intlist squeeze squeeze.dim squeeze.dims unsqueeze view_as reshape_as pixel_shuffle pixel_unshuffle channel_shuffle "
    "im2col col2im flip roll unfold adjoint mT",
    "copy": "expand expand_as repeat repeat_interleave.self_int tile broadcast_to broadcast_tensors",
    "pick": "slice.Tensor select.int split.Tensor split_with_sizes split.sizes chunk tensor_split.sections unbind.int "
    "narrow tensor_split.indices index.Tensor index_select gather getitem embedding tril triu diagonal masked_select",
    "join": "cat concat stack hstack vstack",
    "pad": "pad constant_pad_nd reflection_pad2d replication_pad2d zero_pad2d",
    "create": "arange arange.start arange.start_step linspace zeros ones full empty.memory_format new_zeros new_ones new_full "
    "zeros_like ones_like full_like scalar_tensor meshgrid meshgrid.indexing eye tensor",
    "random": "rand randn bernoulli rand_like randn_like randint randperm",
    "recurrent": "lstm.input gru.input rnn_tanh.input rnn_relu.input",
    "size": "sym_size.int sym_numel sym_stride.int item _local_scalar_dense",
    "check": "_assert_tensor_metadata _assert_async.msg _assert_scalar sym_constrain_range_for_size sym_constrain_range",
    "mutate": "copy_ zero_ fill_.Scalar fill_.Tensor index_put_ masked_fill_.Scalar",
}

_CONTRACTIONS: dict[str, Callable[[fx.Node, Shape], int]] = {
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "conv2d.padding", "conv1d.padding", "convolution"], _conv),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input"], _conv_transpose),
    **dict.fromkeys(["linear", "matmul", "mm", "bmm", "mv", "dot", "vdot"], _last_of_first),
    **dict.fromkeys(["addmm", "baddbmm"], _last_of_second),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
}

TABLE: dict[str, Op] = {
    **{f"aten.{name}": Op(family) for family, names in _FAMILIES.items() for name in names.split()},
    **{f"aten.{name}": Op("contraction", macs) for name, macs in _CONTRACTIONS.items()},
    "getitem": Op("pick"),
    **{
        f"quantized_decomposed.{way}_per_{grain}{overload}": Op("quant")
        for way in ("quantize", "dequantize")
        for grain in ("tensor", "channel", "token")
        for overload in ("", ".tensor", ".tensor2")
    },
    "quantized_decomposed.choose_qparams.tensor": Op("quant"),
    "quantized_decomposed.dequantize_per_channel_group": Op("quant"),
}

CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d")
"""Ordinary convolutions; weight ``[out, in / groups, *kernel]``, grouped and depthwise included."""

TRANSPOSED = ("aten.conv_transpose1d", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
"""Transposed convolutions; weight ``[in, out / groups, *kernel]``."""

PRODUCT_OPERANDS = {
    "aten.linear": ("input", "weight"), "aten.matmul": ("self", "other"), "aten.mm": ("self", "mat2"),
    "aten.addmm": ("mat1", "mat2"),
}  # fmt: skip
"""By product, what it reads and what it multiplies that with. A linear stores ``[out, in]``, the others ``[in, out]``."""


def lookup(node: fx.Node) -> Op | None:
    """Return the row of a node's op, None if the table does not know it. An in-place op has the row of its twin."""
    name = op_name(node)
    if row := TABLE.get(name):
        return row
    packet, dot, overload = name.removeprefix("aten.").partition(".")
    return TABLE.get(f"aten.{packet[:-1]}{dot}{overload}") if packet.endswith("_") else None


def arguments(node: fx.Node) -> dict[str, Any]:
    """Every argument of an ATen call by its schema name, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in schema.arguments}


def each_dim(sizes: int | Sequence[int], count: int) -> list[int]:
    """An argument of sizes as one for each of ``count`` dims; one that is given may stand for all."""
    given = list(sizes) if isinstance(sizes, Sequence) else [sizes]
    return given * count if len(given) == 1 else given


def border(padding: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """For each dim of a convolution, how many zeros its ``padding`` adds before and behind."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        whole = [gap * (size - 1) for size, gap in zip(kernel, dilation, strict=True)]
        return [(size // 2, size - size // 2) for size in whole]
    assert not isinstance(padding, str)
    return [(size, size) for size in each_dim(padding, len(kernel))]


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set one argument of an ATen call by its schema name; the others keep their values."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    place = [a.name for a in schema].index(name)
    if name in node.kwargs or place > len(node.args) or schema[place].kwarg_only:
        node.update_kwarg(name, value)
    else:
        node.args = (*node.args[:place], value, *node.args[place + 1 :])


def family(node: fx.Node) -> str | None:
    """Return the family of a node's op, None if the table does not know it or the node calls nothing.

    A call that drops elements at random is of the family random, whatever its op is without that.
    """
    row = lookup(node) if node.op == "call_function" else None
    return None if row is None else "random" if _drops(node) else row.family


def _drops(node: fx.Node) -> bool:
    """Whether the arguments ask for dropout: of dropout itself, of a recurrent layer in training, of attention."""
    if not hasattr(node.target, "_schema"):
        return False
    call = arguments(node)
    return bool(call.get("dropout_p") or (call.get("train") and call.get("p", call.get("dropout"))))


def find_quantized(graph: fx.Graph) -> fx.Node | None:
    """The first node that quantizes or dequantizes; None for a graph in float."""
    return next((node for node in graph.nodes if family(node) == "quant"), None)


def find_quantized_value(graph: fx.Graph) -> fx.Node | None:
    """The first node that quantizes or dequantizes something computed; None where stored weights alone are quantized."""
    found = (node for node in graph.nodes if family(node) == "quant")
    return next((node for node in found if node.all_input_nodes[0].op != "get_attr"), None)
