"""The rows of the op table: family and traits of each ATen op. A new op is a name in a row.

Names are without ``aten.``; the row of a contraction also has how to count its multiply-accumulates, that of a clamp the
arguments or numbers that bound it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import fx

from fxopt.ir import op_macs, recurrent
from fxopt.ir.op_traits import NONE, Bound, Op, Shape, Trait

T = Trait
_MAPS = T.ELEMENTWISE | T.KEEPS_FORM
_CURVE = _MAPS | T.CONTINUOUS
_PICKS = T.ELEMENTWISE | T.UNROUNDED
_STEPS = _MAPS | T.ZERO_PRESERVING
_SCALES = _CURVE | T.ZERO_PRESERVING | T.HOMOGENEOUS | T.HOMOGENEOUS_IN_FIRST
_KEEPS = (_SCALES & ~T.KEEPS_FORM) | T.SHIFT_EQUIVARIANT  # strides may be asked for, or dims be checked
_MOVES = T.REARRANGES | T.UNROUNDED | T.HOMOGENEOUS | T.SHIFT_EQUIVARIANT
_MEANS = T.HOMOGENEOUS | T.SHIFT_EQUIVARIANT


def _rows(family: str, traits: Trait, *names: str) -> Iterator[tuple[str, Op]]:
    yield from ((f"aten.{name}", Op(family, traits)) for name in names)


def _clamp(name: str, low: Bound, high: Bound, traits: Trait = NONE) -> tuple[str, Op]:
    return f"aten.{name}", Op("unary", _CURVE | T.IDEMPOTENT | T.UNROUNDED | traits, bounds=(low, high))


def _contraction(macs: Callable[[fx.Node, Shape], int], *names: str) -> Iterator[tuple[str, Op]]:
    yield from ((f"aten.{name}", Op("contraction", macs=macs)) for name in names)


def _recurrent(*names: str) -> Iterator[tuple[str, Op]]:
    yield from ((f"aten.{name}", Op("recurrent", macs=recurrent.macs)) for name in names)


UNARY = (
    _clamp("relu", 0, None, _SCALES),
    _clamp("relu6", 0.0, 6.0, T.ZERO_PRESERVING),
    _clamp("hardtanh", "min_val", "max_val"),
    _clamp("clamp", "min", "max"),
    _clamp("clip", "min", "max"),
    _clamp("clamp_min", "min", None),
    _clamp("clamp_max", None, "max"),
    *_rows("unary", _SCALES | T.IDEMPOTENT | T.UNROUNDED, "abs"),
    *_rows("unary", _SCALES | T.UNROUNDED, "neg"),
    *_rows("unary", _SCALES, "leaky_relu", "mul.Scalar", "div.Scalar", "deg2rad", "rad2deg"),
    *_rows(
        "unary", _CURVE | T.ZERO_PRESERVING, "gelu", "elu", "selu", "celu", "silu", "mish", "hardswish", "tanh", "erf"
    ),
    *_rows("unary", _CURVE | T.ZERO_PRESERVING, "softshrink", "asinh", "atan"),
    *_rows("unary", _CURVE | T.ZERO_PRESERVING | T.NEEDS_FLOAT32, "sqrt", "sin", "square", "log1p", "expm1"),
    *_rows("unary", _CURVE | T.ZERO_PRESERVING | T.NEEDS_FLOAT32, "asin", "sinh", "tan"),
    *_rows("unary", _CURVE | T.NEEDS_FLOAT32, "exp", "log", "rsqrt", "cos", "reciprocal", "softplus", "log_sigmoid"),
    *_rows("unary", _CURVE | T.NEEDS_FLOAT32, "log2", "log10", "acos", "cosh"),
    *_rows("unary", _CURVE | T.NEEDS_FLOAT32, "pow.Tensor_Scalar"),
    *_rows("unary", _CURVE, "sigmoid", "hardsigmoid", "rsub.Scalar", "exp2", "acosh", "logit", "erfc", "sinc"),
    *_rows("unary", _CURVE | T.SHIFT_EQUIVARIANT, "add.Scalar", "sub.Scalar"),
    *_rows("unary", _STEPS | T.IDEMPOTENT | T.UNROUNDED, "round", "floor", "ceil", "trunc", "frac", "sign", "sgn"),
    *_rows("unary", _STEPS | T.IDEMPOTENT | T.UNROUNDED, "hardshrink"),
    *_rows("unary", _STEPS | T.IDEMPOTENT, "fmod.Scalar", "remainder.Scalar"),
    *_rows("unary", _STEPS, "nan_to_num", "div.Scalar_mode"),
    # continuous, but beside their poles two neighbouring numbers have results that are far apart
    *_rows("unary", _STEPS, "atanh"),
    *_rows("unary", _STEPS | T.NEEDS_FLOAT32, "erfinv"),
    *_rows("unary", _MAPS | T.UNROUNDED, "threshold"),
    *_rows("unary", _KEEPS | T.SAME_VALUE | T.UNROUNDED, "clone", "contiguous", "detach", "alias", "lift_fresh_copy"),
    *_rows("unary", _KEEPS | T.DROPOUT, "dropout", "feature_dropout"),
    *_rows("unary", (_KEEPS | T.DROPOUT) & ~T.ZERO_PRESERVING, "alpha_dropout", "feature_alpha_dropout"),
    *_rows(
        "unary", T.ELEMENTWISE | T.CAST, "to.dtype", "to.dtype_layout", "to.device", "to.other", "type_as", "_to_copy"
    ),
    *_rows("unary", _PICKS, "logical_not", "bitwise_not", "masked_fill.Scalar"),
    *_rows("unary", _PICKS, "isnan", "isinf", "isfinite", "isposinf", "isneginf", "signbit"),
    *_rows("unary", _PICKS, "bitwise_and.Scalar", "bitwise_or.Scalar", "bitwise_xor.Scalar"),
    *_rows("unary", _PICKS, "eq.Scalar", "ne.Scalar", "lt.Scalar", "gt.Scalar", "le.Scalar", "ge.Scalar"),
    *_rows("unary", T.NEEDS_FLOAT32, "cumsum"),
)

BINARY = (
    *_rows("binary", T.ELEMENTWISE | T.HOMOGENEOUS, "add.Tensor", "sub.Tensor"),
    *_rows("binary", T.ELEMENTWISE | T.HOMOGENEOUS | T.UNROUNDED, "maximum", "minimum", "max.other", "min.other"),
    *_rows("binary", T.ELEMENTWISE | T.HOMOGENEOUS | T.UNROUNDED, "fmax", "fmin"),
    *_rows("binary", T.ELEMENTWISE | T.HOMOGENEOUS_IN_FIRST | T.ZERO_PRESERVING, "prelu"),
    *_rows("binary", T.ELEMENTWISE | T.HOMOGENEOUS_IN_FIRST, "mul.Tensor", "div.Tensor"),
    *_rows("binary", T.ELEMENTWISE | T.NEEDS_FLOAT32, "pow.Tensor_Tensor", "pow.Scalar"),
    *_rows("binary", T.ELEMENTWISE, "rsub.Tensor", "div.Tensor_mode", "remainder.Tensor", "floor_divide", "atan2"),
    *_rows("binary", T.ELEMENTWISE, "lerp.Scalar", "lerp.Tensor", "addcmul", "addcdiv", "hypot", "xlogy.Tensor"),
    *_rows("binary", T.ELEMENTWISE, "fmod.Tensor", "copysign.Tensor", "heaviside", "clamp.Tensor"),
    *_rows("binary", T.ELEMENTWISE, "logaddexp", "logaddexp2"),
    *_rows("binary", _PICKS, "where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar"),
    *_rows("binary", _PICKS, "eq.Tensor", "ne.Tensor", "lt.Tensor", "gt.Tensor", "le.Tensor", "ge.Tensor"),
    *_rows("binary", _PICKS, "logical_and", "logical_or", "logical_xor"),
    *_rows("binary", _PICKS, "bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor"),
    *_rows("binary", _PICKS, "bitwise_left_shift.Tensor", "bitwise_right_shift.Tensor"),
    *_rows("binary", _PICKS, "__and__.Tensor", "__or__.Tensor", "masked_fill.Tensor"),
)

SUMS = (
    *_contraction(op_macs.conv, "conv1d", "conv2d", "conv3d", "conv1d.padding", "conv2d.padding", "convolution"),
    *_contraction(op_macs.conv_transpose, "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input"),
    *_contraction(op_macs.last_of_first, "linear", "matmul", "mm", "bmm", "mv", "dot", "vdot"),
    *_contraction(op_macs.last_of_second, "addmm", "baddbmm"),
    *_contraction(op_macs.attention, "scaled_dot_product_attention"),
    *_contraction(op_macs.einsum, "einsum"),
    *_rows("norm", NONE, "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "_weight_norm"),
    *_rows("norm", NONE, "_native_batch_norm_legit_no_training"),
    *_rows("softmax", NONE, "softmax.int", "log_softmax.int", "_softmax", "_log_softmax"),
    *_rows("reduce", _MEANS, "mean", "mean.dim"),
    *_rows("reduce", T.HOMOGENEOUS, "sum", "sum.dim_IntList"),
    *_rows("reduce", _MEANS | T.SELECTS | T.UNROUNDED, "amax", "amin"),
    *_rows(
        "reduce", T.SELECTS | T.UNROUNDED, "max", "min", "max.dim", "min.dim", "argmax", "argmin", "any", "all", "topk"
    ),
    *_rows("reduce", NONE, "sort", "argsort"),
    *_rows("reduce", NONE, "prod", "std.correction", "var.correction", "logsumexp"),
    *_rows("reduce", NONE, "linalg_vector_norm", "norm.ScalarOpt_dim"),
    *_rows("pool", _MEANS, "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "max_pool2d_with_indices"),
    *_rows("pool", _MEANS, "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *_rows("pool", T.HOMOGENEOUS, "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *_rows("resample", _MEANS, "upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec"),
    *_rows("resample", _MEANS, "upsample_bilinear2d.vec", "upsample_bicubic2d.vec", "upsample_trilinear3d.vec"),
    *_rows("resample", _MEANS, "_upsample_bilinear2d_aa.vec", "upsample_nearest2d", "upsample_bilinear2d"),
    *_rows("resample", T.NEEDS_FLOAT32, "grid_sampler", "affine_grid_generator"),
)

_VIEWS = _MOVES | T.SAME_SHAPE_IS_SAME_VALUE
MOVES = (
    *_rows("layout", _VIEWS | T.BOUND_TO_STRIDES, "view", "view_as", "_unsafe_view"),
    *_rows("layout", _MOVES | T.BOUND_TO_STRIDES, "unflatten.int"),
    *_rows("layout", _VIEWS, "reshape", "reshape_as", "flatten.using_ints"),
    *_rows("layout", _VIEWS, "squeeze", "squeeze.dim", "squeeze.dims"),
    *_rows("layout", _MOVES, "permute", "transpose.int", "t", "numpy_T", "mT", "adjoint", "swapaxes"),
    *_rows("layout", _MOVES, "movedim.int", "movedim.intlist", "unsqueeze", "flip", "roll", "unfold"),
    *_rows("layout", _MOVES, "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *_rows("layout", T.HOMOGENEOUS, "im2col", "col2im"),  # they add numbers, or zeros at the border
    *_rows("copy", _VIEWS, "expand", "expand_as", "broadcast_to"),
    *_rows("copy", _MOVES, "repeat", "repeat_interleave.self_int", "tile"),
    *_rows("copy", _MEANS, "broadcast_tensors"),
    *_rows("pick", _VIEWS, "slice.Tensor"),
    *_rows("pick", _MOVES, "select.int", "split.Tensor", "split_with_sizes", "split.sizes", "chunk", "unbind.int"),
    *_rows("pick", _MOVES, "tensor_split.sections", "tensor_split.indices", "narrow", "diagonal"),
    *_rows("pick", _MEANS, "index.Tensor", "index_select", "gather", "embedding", "masked_select"),
    *_rows("pick", T.HOMOGENEOUS, "tril", "triu"),
    ("getitem", Op("pick", _MEANS)),
    *_rows("scatter", NONE, "scatter.src", "scatter.value", "scatter_add", "scatter_reduce.two", "segment_reduce"),
    *_rows("scatter", NONE, "index_add", "index_copy", "index_fill.int_Scalar", "index_put"),
    *_rows("join", _MOVES, "cat", "concat", "stack", "hstack", "vstack"),
    *_rows("pad", T.REARRANGES, "pad", "constant_pad_nd"),
    *_rows("pad", NONE, "reflection_pad2d", "replication_pad2d"),
)

OTHERS = (
    *_rows("create", NONE, "arange", "arange.start", "arange.start_step", "linspace", "zeros", "ones", "full"),
    *_rows("create", NONE, "empty.memory_format", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like"),
    *_rows(
        "create", NONE, "full_like", "empty_like", "scalar_tensor", "meshgrid", "meshgrid.indexing", "eye", "tensor"
    ),
    *_rows("random", NONE, "rand", "randn", "bernoulli", "rand_like", "randn_like", "randint", "randperm"),
    *_recurrent("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"),
    *_recurrent("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    *_rows("size", T.READS_FORM_ONLY, "sym_size.int", "sym_numel", "sym_stride.int"),
    *_rows("size", NONE, "item", "_local_scalar_dense"),
    *_rows("check", T.READS_FORM_ONLY, "_assert_tensor_metadata"),
    *_rows("check", NONE, "_assert_async.msg", "_assert_scalar", "sym_constrain_range_for_size", "sym_constrain_range"),
    *_rows("mutate", NONE, "copy_", "zero_", "fill_.Scalar", "fill_.Tensor", "index_put_", "masked_fill_.Scalar"),
)

QUANT = {
    **{
        f"quantized_decomposed.{way}_per_{grain}{overload}": Op("quant")
        for way in ("quantize", "dequantize")
        for grain in ("tensor", "channel", "token")
        for overload in ("", ".tensor", ".tensor2")
    },
    "quantized_decomposed.choose_qparams.tensor": Op("quant"),
    "quantized_decomposed.choose_qparams_per_token_asymmetric": Op("quant"),
    "quantized_decomposed.dequantize_per_channel_group": Op("quant"),
}

TABLE: dict[str, Op] = {**dict((*UNARY, *BINARY, *SUMS, *MOVES, *OTHERS)), **QUANT}
