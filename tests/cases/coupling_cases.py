"""Single ops for the test of coupling rules: programs of one op, with the number of atoms that are free behind it.

All inputs and weights have free atoms, one for each index of a dim of two or more. ``free`` counts what the rule leaves
to be removed: a rule that pins or ties too much has too few, one that overlooks something has wrong numbers.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A program's text, how many atoms are free, and values of inputs or weights where random ones do not do."""

    text: str
    free: int
    values: dict[str, Any] = field(default_factory=dict)


CASES: list[Case] = []


def case(text: str, free: int, **values: Any) -> None:
    CASES.append(Case(text, free, values))


def each(inputs: str, free: int, calls: str, **values: Any) -> None:
    """One case for each line of calls ``op(…)``, on the same inputs."""
    for call in filter(None, map(str.strip, calls.splitlines())):
        op = call if call.startswith("quantized") else f"aten.{call}"
        case(f"{inputs}; %y = {op}; return %y", free, **values)


def parts(inputs: str, free: int, call: str, *numbers: int, **values: Any) -> None:
    """A case for an op with several results, of which some are returned."""
    reads = "; ".join(f"%y{n} = getitem(%many, {n})" for n in numbers)
    case(f"{inputs}; %many = aten.{call}; {reads}; return {', '.join(f'%y{n}' for n in numbers)}", free, **values)


# ---- element by element --------------------------------------------------------------------------------------------

X = "%x : f64[3,4,5]"
each(X, 12, """
    relu(%x)
    relu6(%x)
    gelu(%x)
    gelu(%x, approximate='tanh')
    elu(%x)
    selu(%x)
    celu(%x)
    silu(%x)
    mish(%x)
    softshrink(%x, 0.3)
    sigmoid(%x)
    hardswish(%x)
    hardsigmoid(%x)
    hardtanh(%x, -0.5, 0.7)
    tanh(%x)
    softplus(%x)
    leaky_relu(%x, 0.2)
    exp(%x)
    log(%x)
    sqrt(%x)
    rsqrt(%x)
    abs(%x)
    neg(%x)
    sin(%x)
    cos(%x)
    erf(%x)
    reciprocal(%x)
    round(%x)
    floor(%x)
    ceil(%x)
    sign(%x)
    clamp(%x, -0.3, 0.4)
    clamp_min(%x, 0.1)
    clamp_max(%x, 0.1)
    pow.Tensor_Scalar(%x, 3)
    square(%x)
    logical_not(%x)
    isnan(%x)
    threshold(%x, 0.1, 2.0)
    log_sigmoid(%x)
    dropout(%x, 0.5, False)
    feature_dropout(%x, 0.5, False)
    alpha_dropout(%x, 0.5, False)
    feature_alpha_dropout(%x, 0.5, False)
    clone(%x)
    contiguous(%x)
    detach(%x)
    alias(%x)
    lift_fresh_copy(%x)
    to.dtype(%x, f32)
    to.dtype_layout(%x, dtype=f32)
    to.device(%x, 'cpu', f32)
    _to_copy(%x, dtype=f32)
    add.Scalar(%x, 2)
    add.Tensor(%x, 2)
    sub.Scalar(%x, 2)
    mul.Scalar(%x, 2)
    div.Scalar(%x, 2)
    rsub.Scalar(%x, 2)
    eq.Scalar(%x, 0)
    ne.Scalar(%x, 0)
    lt.Scalar(%x, 0)
    gt.Scalar(%x, 0)
    le.Scalar(%x, 0)
    ge.Scalar(%x, 0)
    clip(%x, -0.3, 0.4)
    deg2rad(%x)
    rad2deg(%x)
    asinh(%x)
    atan(%x)
    asin(%x)
    sinh(%x)
    tan(%x)
    atanh(%x)
    erfinv(%x)
    exp2(%x)
    log2(%x)
    log10(%x)
    acos(%x)
    acosh(%x)
    cosh(%x)
    logit(%x)
    erfc(%x)
    sinc(%x)
    trunc(%x)
    frac(%x)
    sgn(%x)
    hardshrink(%x, 0.3)
    fmod.Scalar(%x, 0.7)
    remainder.Scalar(%x, 0.7)
    div.Scalar_mode(%x, 0.3, rounding_mode='floor')
    isinf(%x)
    isfinite(%x)
    isposinf(%x)
    isneginf(%x)
    signbit(%x)
    pow.Scalar(2, %x)
    nan_to_num(%x, 3.0)
    log1p(%x)
    expm1(%x)
    zeros_like(%x)
    ones_like(%x)
    full_like(%x, 2.5)
    fill_.Scalar(%x, 2.0)
    zero_(%x)
    relu_(%x)
    mul_.Scalar(%x, 3)
    hardtanh_(%x)
""")  # fmt: skip
each("%x : bool[3,4,5]", 12, "bitwise_not(%x)\nlogical_not(%x)")
each(f"{X}; %other : f32[7]", 19, "to.other(%x, %other)\ntype_as(%x, %other)")
each("%x : f64[3,4,5]; %v : f64[]", 12, "fill_.Tensor(%x, %v)\nmul.Tensor(%x, %v)")
case("%x : f64[3,4,5]; %y = aten.relu_(%x); %z = aten.add.Tensor(%x, 1); return %y, %z, %x", 12)

for pair in ("%a : f64[3,4,5]; %b : f64[3,4,5]", "%a : f64[4,5]; %b : f64[3,1,5]"):
    each(pair, 12, "add.Tensor(%a, %b)")
each("%a : f64[3,4,5]; %b : f64[4,1]", 12, """
    add.Tensor(%a, %b)
    add.Tensor(%a, %b, alpha=2)
    sub.Tensor(%a, %b)
    mul.Tensor(%a, %b)
    div.Tensor(%a, %b)
    div.Tensor_mode(%a, %b, rounding_mode='floor')
    pow.Tensor_Tensor(%a, %b)
    maximum(%a, %b)
    minimum(%a, %b)
    rsub.Tensor(%a, %b)
    eq.Tensor(%a, %b)
    ne.Tensor(%a, %b)
    lt.Tensor(%a, %b)
    gt.Tensor(%a, %b)
    le.Tensor(%a, %b)
    ge.Tensor(%a, %b)
    logical_and(%a, %b)
    logical_or(%a, %b)
    remainder.Tensor(%a, %b)
    floor_divide(%a, %b)
    atan2(%a, %b)
    lerp.Scalar(%a, %b, 0.3)
    lerp.Tensor(%a, %b, %a)
    addcmul(%a, %b, %b, value=0.7)
    addcdiv(%a, %a, %b)
    hypot(%a, %b)
    xlogy.Tensor(%a, %b)
    fmod.Tensor(%a, %b)
    fmax(%a, %b)
    fmin(%a, %b)
    copysign.Tensor(%a, %b)
    heaviside(%a, %b)
    clamp.Tensor(%a, %b, None)
    logaddexp(%a, %b)
    logaddexp2(%a, %b)
    logical_xor(%a, %b)
    max.other(%a, %b)
    min.other(%a, %b)
""")  # fmt: skip
each("%a : i64[3,4,5]", 12, "bitwise_and.Scalar(%a, 5)\nbitwise_or.Scalar(%a, 5)\nbitwise_xor.Scalar(%a, 5)")
each("%a : i64[3,4,5]; %b : i64[4,1]", 12, """
    bitwise_xor.Tensor(%a, %b)
    bitwise_left_shift.Tensor(%a, %b)
    bitwise_right_shift.Tensor(%a, %b)
""", b=[[1], [0], [3], [2]])  # fmt: skip
each("%a : bool[3,4,5]; %b : bool[4,1]", 12, """
    bitwise_and.Tensor(%a, %b)
    bitwise_or.Tensor(%a, %b)
    __and__.Tensor(%a, %b)
    __or__.Tensor(%a, %b)
""")  # fmt: skip
each("%x : f64[3,4,5]; %m : bool[4,1]; %z : f64[1,5]", 12, "where.self(%m, %x, %z)")
each("%x : f64[3,4,5]; %m : bool[4,1]; %v : f64[]", 12, """
    masked_fill.Scalar(%x, %m, -1.0)
    masked_fill.Tensor(%x, %m, %v)
    masked_fill_.Scalar(%x, %m, -1.0)
    where.ScalarSelf(%m, 2.0, %x)
    where.ScalarOther(%m, %x, 2.0)
""")  # fmt: skip
each("%m : bool[4,1]", 4, "where.Scalar(%m, 1.0, 2.0)")
each("%x : f64[3,4,5]; %y0 : f64[4,1]", 12, "copy_(%x, %y0)\nadd_.Tensor(%x, %y0)\nmul_.Tensor(%x, %y0)")
each('%x : f64[3,4,5]; %w = param "w" : f64[4]', 12, "prelu(%x, %w)")
each('%x : f64[3,4,5]; %w = param "w" : f64[1]', 12, "prelu(%x, %w)")
parts("%a : f64[4,1]; %b : f64[3,1,5]", 12, "broadcast_tensors([%a, %b])", 0, 1)
each(X, 8, """
    cumsum(%x, 1)
    cumsum(%x, -2)
    cumprod(%x, 1)
    logcumsumexp(%x, 1)
    roll(%x, [1], [1])
    roll(%x, [2], [-2])
    unfold(%x, 1, 2, 2)
""")  # fmt: skip
each(X, 0, "roll(%x, [2])")
each(X, 3, "tril(%x)\ntriu(%x, 1)")

# ---- random numbers, quantization ----------------------------------------------------------------------------------

each(X, 0, """
    rand_like(%x)
    randn_like(%x)
    bernoulli(%x)
    dropout(%x, 0.5, True)
""", x=0.5)  # fmt: skip
each(X, 12, "rand([3, 4])\nrandn([3, 4])\nrandint(7, [3, 4])\nrandperm(7)")
SCALE = '%x : f32[3,4,5]; %s = param "scale" : f32[4]; %z = param "zero_point" : i64[4]'
each(SCALE, 12, """
    quantized_decomposed.quantize_per_channel(%x, %s, %z, 1, -128, 127, i8)
    quantized_decomposed.quantize_per_channel(%x, %s, %z, -2, -128, 127, i8)
""")  # fmt: skip
each(
    SCALE.replace("%x : f32", "%x : i8"),
    12,
    "quantized_decomposed.dequantize_per_channel(%x, %s, %z, 1, -128, 127, i8)",
)
for shape, free in (("4,2", 4), ("8", 0)):
    each(f'%x : i8[4,6]; %s = param "scale" : f32[{shape}]; %z = param "zero_point" : i32[{shape}]', free, """
        quantized_decomposed.dequantize_per_channel_group(%x, %s, %z, -8, 7, i8, 3, f32)
    """)  # fmt: skip
ONE = '%x : f32[3,4,5]; %s = param "scale" : f32[]; %z = param "zero_point" : i64[]'
each(ONE, 12, """
    quantized_decomposed.quantize_per_tensor(%x, 0.02, 3, -128, 127, i8)
    quantized_decomposed.quantize_per_tensor.tensor(%x, %s, %z, -128, 127, i8)
    quantized_decomposed.quantize_per_tensor.tensor2(%x, %s, %z, %z, %z, i8)
""")  # fmt: skip
each(ONE.replace("%x : f32", "%x : i8"), 12, """
    quantized_decomposed.dequantize_per_tensor(%x, 0.02, 3, -128, 127, i8)
    quantized_decomposed.dequantize_per_tensor.tensor(%x, %s, %z, -128, 127, i8)
    quantized_decomposed.dequantize_per_tensor.tensor2(%x, %s, %z, %z, %z, i8)
""")  # fmt: skip
TOKEN = "%x : f32[3,4,5]; %s : f64[3,4,1]; %z : f64[3,4,1]"
each(TOKEN, 12, "quantized_decomposed.quantize_per_token(%x, %s, %z, -128, 127, i8)", s=0.1, z=1.0)
each(
    TOKEN.replace("%x : f32", "%x : i8"),
    12,
    "quantized_decomposed.dequantize_per_token(%x, %s, %z, -128, 127, i8, f32)",
)

# ---- layout --------------------------------------------------------------------------------------------------------

each(X, 12, """
    permute(%x, [2, 0, 1])
    permute(%x, [-1, 0, -2])
    transpose.int(%x, 0, 2)
    transpose.int(%x, -1, -3)
    swapaxes(%x, 0, 1)
    swapdims(%x, 0, -1)
    movedim.int(%x, 0, -1)
    movedim.intlist(%x, [0, 1], [2, 0])
    numpy_T(%x)
    mT(%x)
    adjoint(%x)
    flip(%x, [1])
    flip(%x, [0, -1])
    unsqueeze(%x, 0)
    unsqueeze(%x, -1)
    unsqueeze(%x, 2)
    view(%x, [3, 20])
    view(%x, [-1])
    view(%x, [12, -1])
    view(%x, [1, 3, 4, 5, 1])
    _unsafe_view(%x, [12, 5])
    reshape(%x, [3, -1])
    reshape(%x, [60])
    flatten.using_ints(%x)
    flatten.using_ints(%x, 1)
    flatten.using_ints(%x, 0, 1)
    flatten.using_ints(%x, -2, -1)
    squeeze(%x)
    squeeze.dim(%x, 1)
""")  # fmt: skip
each("%x : f64[3,4]", 7, "t(%x)\nsqueeze(%x)")
each("%x : f64[3]", 3, "t(%x)")
each("%x : f64[3,24]", 13, """
    view(%x, [3, 4, 6])
    view(%x, [3, 4, -1])
    view(%x, [-1, 4, 6])
    reshape(%x, [12, 6])
    unflatten.int(%x, 1, [4, 6])
    unflatten.int(%x, -1, [4, -1])
    unflatten.int(%x, 1, [-1, 6])
""")  # fmt: skip
each("%x : f64[3,24]", 12, "view(%x, [3, 2, 3, 4])\nunflatten.int(%x, 1, [2, -1, 4])")
each("%x : f64[24,3]", 13, "unflatten.int(%x, -2, [4, 6])")
each("%x : f64[4,6]", 10, "view(%x, [2, 12])\nreshape(%x, [-1, 12])")
each("%x : f64[4,6]", 9, "view(%x, [8, 3])")
each("%x : f64[4,6]", 0, "view(%x, [3, 8])")
each("%x : f64[3,24]; %o : f64[3,4,6]", 13, "view_as(%x, %o)\nreshape_as(%x, %o)")
each("%x : f64[1,4,1,5]", 9, """
    squeeze(%x)
    squeeze.dim(%x, 0)
    squeeze.dim(%x, -2)
    squeeze.dim(%x, 1)
    squeeze.dims(%x, [0, 2])
    squeeze.dims(%x, [-2, 1])
""")  # fmt: skip
each("%x : f64[2,36,3,4]", 6, "pixel_shuffle(%x, 3)")
each("%x : f64[36,3,4]", 4, "pixel_shuffle(%x, 3)")
each("%x : f64[2,4,6,9]", 6, "pixel_unshuffle(%x, 3)")
each("%x : f64[4,6,9]", 4, "pixel_unshuffle(%x, 3)")
each("%x : f64[5,12,2,3]", 17, "channel_shuffle(%x, 3)\nnative_channel_shuffle(%x, 3)")
each("%x : f64[2,4,5,6]", 6, "im2col(%x, [3, 2], [1, 1], [0, 0], [1, 1])")
each("%x : f64[4,5,6]", 4, "im2col(%x, [3, 2], [1, 1], [1, 0], [1, 1])")
each("%x : f64[2,24,15]", 6, "col2im(%x, [5, 6], [3, 2], [1, 1], [0, 0], [1, 1])")

# ---- copies, pieces, joins -----------------------------------------------------------------------------------------

each("%x : f64[4,1]", 12, """
    expand(%x, [3, -1, 5])
    expand(%x, [3, 4, 5])
    broadcast_to(%x, [3, 4, 5])
""")  # fmt: skip
each("%x : f64[3,4]", 7, "expand(%x, [1, 3, 4])\nexpand(%x, [-1, -1])")
each("%x : f64[4,1]; %o : f64[3,4,5]", 12, "expand_as(%x, %o)")
each(
    "%x : f64[3,4]",
    12,
    "repeat(%x, [5, 1, 1])\nrepeat(%x, [1, 5])\nrepeat(%x, [5, 1])\ntile(%x, [5, 1])\ntile(%x, [5])",
)
each("%x : f64[3,4]", 14, "repeat(%x, [5, 1, 2])\ntile(%x, [5, 2])")
each("%x : f64[3,4]", 9, """
    repeat_interleave.self_int(%x, 2, 0)
    repeat_interleave.self_int(%x, 2, -1)
    repeat_interleave.self_int(%x, 2, 1, output_size=8)
    repeat_interleave.self_int(%x, 2)
""")  # fmt: skip
each(X, 12, """
    slice.Tensor(%x, 1, 1, 3)
    slice.Tensor(%x, 1, None, 3)
    slice.Tensor(%x, 1, 2, None)
    slice.Tensor(%x, -1, -3, -1)
    slice.Tensor(%x, -1, -3, 9223372036854775807)
    slice.Tensor(%x, 1, end=2)
    slice.Tensor(%x, 1, -9, 9)
    slice.Tensor(%x, 2, 1, step=1)
    slice.Tensor(%x)
    slice.Tensor(%x, start=1)
    narrow(%x, 2, 1, 3)
    narrow(%x, -2, -3, 2)
    narrow(%x, 0, 0, 3)
""")  # fmt: skip
each(X, 12, "slice.Tensor(%x, 2, 0, 5, 2)\nslice.Tensor(%x, 2, 1, None, 3)\nslice.Tensor(%x, -2, -3, -1, 2)")
each(X, 11, "select.int(%x, 1, 2)\nselect.int(%x, -1, -2)\nselect.int(%x, 0, 0)")
parts(X, 12, "split.Tensor(%x, 2, 2)", 0, 1, 2)
parts(X, 12, "split.Tensor(%x, 2, -1)", 1)
parts(X, 12, "split.sizes(%x, [1, 3], 1)", 0, 1)
parts(X, 12, "split_with_sizes(%x, [3, 2], -1)", 1, 0)
parts(X, 12, "split_with_sizes(%x, [2, 1])", 1, 0)
parts(X, 12, "chunk(%x, 3, 2)", 0, 1, 2)
parts(X, 12, "chunk(%x, 2)", 0, 1)
parts(X, 12, "tensor_split.sections(%x, 3, 2)", 0, 1, 2)
parts(X, 12, "tensor_split.sections(%x, 3, 1)", 2, 1, 0)
parts(X, 12, "tensor_split.indices(%x, [1, 4], -1)", 0, 1, 2)
parts(X, 8, "unbind.int(%x, 1)", 0, 3)
each(X, 10, "glu(%x, 1)\nglu(%x, -2)")
parts(X, 9, "unbind.int(%x)", 2)
ROW = '%x : f64[3,4,5]; %i = param "i" : i64[4]'
each(ROW, 12, "index.Tensor(%x, [None, %i])\nindex_select(%x, 1, %i)\nindex_select(%x, -2, %i)", i=[2, 0, 3, 1])
each(ROW, 12, "index.Tensor(%x, [None, None, %i])\nindex_select(%x, 2, %i)", i=[4, 0, 3, 1])
each(ROW, 9, "index.Tensor(%x, [%i])\nindex_select(%x, 0, %i)", i=[2, 0, 2, 1])
each(ROW.replace("i64", "bool"), 8, "index.Tensor(%x, [None, %i])", i=[True, False, True, True])
ALONE = "%x : f64[3,4,5,6]; %i : i64[2,2]"
J = f"{ALONE}; %j : i64[2]"
each(ALONE, 14, "index.Tensor(%x, [None, %i])")
each(J, 9, "index.Tensor(%x, [None, %i, %j])")
each(ALONE, 12, "index.Tensor(%x, [None, None, None, %i])")
each(J, 10, "index.Tensor(%x, [%i, None, %j])")
each(J, 9, "index.Tensor(%x, [None, %j, %i, None])")
each(J, 5, "index.Tensor(%x, [%j, %i, None, %j])")
MASK = '%x : f64[3,4,5,6]; %m = param "m" : bool[{}]'
each(MASK.format("3,4"), 11, "index.Tensor(%x, [%m])", m=[[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 0]])
each(MASK.format("4,5"), 9, "index.Tensor(%x, [None, %m])", m=[[1, 0, 1, 0, 1], [0, 0, 1, 1, 1], [1] * 5, [0] * 5])
each('%t = param "t" : f64[9,4]; %i : i64[2,3]', 9, "embedding(%t, %i)\nembedding(%t, %i, 0)")
each('%t = param "t" : f64[9,4]; %i : i64[]', 4, "embedding(%t, %i)")
each("%x : f64[3,4]; %i : i64[2,4]", 6, "gather(%x, 0, %i)\ngather(%x, -2, %i)")
each("%x : f64[3,4]; %i : i64[2,3]", 2, "gather(%x, 0, %i)")
each("%x : f64[3,4,5]; %s : f64[2,4,5]; %i : i64[2]", 9, """
    index_add(%x, 0, %i, %s)
    index_add(%x, -3, %i, %s, alpha=2)
    index_copy(%x, 0, %i, %s)
    index_add_(%x, 0, %i, %s)
""", i=[2, 0])  # fmt: skip
each("%x : f64[3,4,5]; %i : i64[2]", 8, "index_fill.int_Scalar(%x, 1, %i, 2.0)")
each("%x : f64[3,4,5]; %s : f64[3,2,5]; %i : i64[3,2,5]", 8, """
    scatter_add(%x, 1, %i, %s)
    scatter_add_(%x, -2, %i, %s)
    scatter_reduce.two(%x, 1, %i, %s, 'amax')
    scatter_reduce.two(%x, 1, %i, %s, 'mean', include_self=False)
""")  # fmt: skip
each("%x : f64[3,4,5]; %i : i64[3,2,5]", 8, "scatter.value(%x, 1, %i, 3.0)")
each("%x : f64[3,4,5]; %s : f64[3,2,5]; %i : i64[3,2,5]", 8, "scatter.src(%x, 1, %i, %s)", i=[[[0] * 5, [2] * 5]] * 3)
each("%x : f64[3,4,5]; %s : f64[3,2,5]; %i : i64[3,2,4]", 3, "scatter_add(%x, 1, %i, %s)")
each("%x : f64[6,4]; %n : i64[2]", 4, "segment_reduce(%x, 'mean', lengths=%n, axis=0)", n=[4, 2])
each("%x : f64[2,2,3]", 0, "affine_grid_generator(%x, [2, 3, 4, 5], False)")
each("%x : f64[3,4]; %m : bool[4]", 0, "masked_select(%x, %m)")
each(X, 0, "diagonal(%x, 0, 1, 2)")
each("%x : f64[3,4]; %i : i64[2]; %v : f64[4]", 4, "index_put_(%x, [%i], %v)\nindex_put(%x, [%i], %v, True)")
each("%x : f64[3,4,5]; %i : i64[2]; %v : f64[2,5]", 5, "index_put(%x, [None, %i], %v)", i=[3, 1])
ABC = "%a : f64[3,4,5]; %b : f64[3,2,5]; %c : f64[3,3,5]"
each(
    ABC,
    17,
    "cat([%a, %b, %c], 1)\ncat([%c, %a, %b], -2)\nconcat([%b, %c, %a], 1)\nhstack([%b, %a, %c])\nconcatenate([%b, %a, %c], 1)",
)
each("%a : f64[3,4]; %b : f64[2,4]", 9, "cat([%a, %b])\ncat([%b, %a, %b])\nvstack([%a, %b])")
each("%a : f64[3]; %b : f64[0]; %c : f64[2]", 5, "cat([%a, %b, %c])\nhstack([%a, %c])")
each("%a : f64[3]; %b : f64[3]", 3, "vstack([%a, %b])")
each("%a : f64[3,4]; %b : f64[3,4]", 7, "stack([%a, %b])\nstack([%a, %b], 1)\nstack([%a, %b], -1)")
each(
    X, 19, "pad(%x, [1, 2, 0, 0, 3, 1])\npad(%x, [3, 1, 2, 1], 'constant', 0.5)\nconstant_pad_nd(%x, [0, 0, 4, 3], 2.0)"
)
each(X, 14, "pad(%x, [0, 2])\nconstant_pad_nd(%x, [2, 0])")
each(X, 7, "pad(%x, [-1, 2])\npad(%x, [2, 1], 'reflect')\npad(%x, [0, 1], 'circular')\nreflection_pad1d(%x, [1, 2])")
each(
    "%x : f64[2,3,4,5]",
    5,
    "reflection_pad2d(%x, [1, 2, 0, 1])\nreplication_pad2d(%x, [1, 2, 0, 1])\npad(%x, [1, 1, 2, 2], 'replicate')",
)

# ---- made from sizes -----------------------------------------------------------------------------------------------

each(
    X,
    19,
    "zeros([3, 4])\nones([3, 4])\nfull([3, 4], 2.5)\nnew_zeros(%x, [3, 4])\nnew_ones(%x, [3, 4])\nnew_full(%x, [3, 4], 2.0)",
)
each(X, 16, "arange(4)\narange.start_step(1, 9, 2)\nlinspace(0, 1, 4)")
each(X, 15, "arange.start(1, 4)")
each(X, 12, """
    scalar_tensor(2.0)
    eye(3)
""")  # fmt: skip
parts("%a : f64[3]; %b : f64[4]", 0, "meshgrid([%a, %b])", 0, 1)
parts("%a : f64[3]; %b : f64[4]", 0, "meshgrid.indexing([%a, %b], indexing='xy')", 0, 1)

# ---- contractions --------------------------------------------------------------------------------------------------


def weighted(inputs: str, free: int, calls: str) -> None:
    """Cases where the operands w and b are weights, then where they are computed."""
    each(inputs, free, calls)
    for name in ("w", "b"):
        inputs = inputs.replace(f"%{name} : ", f'%{name} = param "{name}" : ')
    each(inputs, free, calls)


weighted("%x : f64[2,3,6]; %w : f64[8,6]; %b : f64[8]", 19, "linear(%x, %w, %b)\nlinear(%x, %w, bias=%b)")
weighted("%x : f64[6]; %w : f64[8,6]", 14, "linear(%x, %w)")
weighted("%x : f64[2,3,6]; %w : f64[6]", 11, "linear(%x, %w)\nmatmul(%x, %w)")
weighted("%x : f64[2,3,4]; %w : f64[4,5]", 14, "matmul(%x, %w)")
weighted("%x : f64[2,3,4]; %w : f64[2,4,5]", 14, "matmul(%x, %w)\nbmm(%x, %w)")
weighted("%x : f64[2,1,3,4]; %w : f64[6,4,5]", 20, "matmul(%x, %w)")
weighted("%x : f64[3,4]; %w : f64[4,5]", 12, "mm(%x, %w)\nmatmul(%x, %w)")
weighted("%w : f64[3,4]; %x : f64[2,4,5]", 14, "matmul(%w, %x)")
weighted("%x : f64[3,4]; %w : f64[4]", 7, "mv(%x, %w)\nmatmul(%x, %w)")
weighted("%x : f64[4]; %w : f64[2,4,5]", 11, "matmul(%x, %w)")
weighted("%x : f64[4]; %w : f64[4]", 4, "dot(%x, %w)\nvdot(%x, %w)\nmatmul(%x, %w)")
weighted("%b : f64[5]; %x : f64[3,4]; %w : f64[4,5]", 12, "addmm(%b, %x, %w)\naddmm(%b, %x, %w, beta=2, alpha=3)")
weighted("%b : f64[3,1]; %x : f64[2,3,4]; %w : f64[2,4,5]", 14, "baddbmm(%b, %x, %w)")
weighted("%x : f64[2,6,5,7]; %w : f64[8,6,3,2]; %b : f64[8]", 16, """
    conv2d(%x, %w, %b)
    conv2d(%x, %w, bias=%b, stride=[2, 1], padding=[1, 0])
    conv2d.padding(%x, %w, %b, padding='same')
    conv2d.padding(%x, %w, %b, [2, 1], 'valid')
    convolution(%x, %w, %b, [1, 1], [1, 0], [1, 1], False, [0, 0], 1)
""")  # fmt: skip
weighted("%x : f64[2,6,5,7]; %w : f64[8,3,3,2]; %b : f64[8]", 11, """
    conv2d(%x, %w, %b, groups=2)
    conv2d(%x, %w, %b, [1, 1], [1, 0], [1, 1], 2)
    conv2d.padding(%x, %w, %b, padding='same', groups=2)
    convolution(%x, %w, %b, [1, 1], [1, 0], [1, 1], False, [0, 0], 2)
""")  # fmt: skip
weighted("%x : f64[2,6,5,7]; %w : f64[6,1,3,2]; %b : f64[6]", 8, "conv2d(%x, %w, %b, groups=6)")
weighted("%x : f64[2,6,5,7]; %w : f64[12,1,3,2]; %b : f64[12]", 10, "conv2d(%x, %w, %b, groups=6)")
weighted("%x : f64[2,6,5,7]; %w : f64[2,3,1,1]; %b : f64[2]", 7, "conv2d(%x, %w, %b, groups=2)")
weighted("%x : f64[6,5,7]; %w : f64[8,3,3,2]; %b : f64[8]", 9, "conv2d(%x, %w, %b, groups=2)")
weighted("%x : f64[6,5,7]; %w : f64[8,6,3,2]", 14, "conv2d(%x, %w)")
weighted(
    "%x : f64[2,6,5]; %w : f64[8,6,3]; %b : f64[8]",
    16,
    "conv1d(%x, %w, %b)\nconv1d.padding(%x, %w, %b, padding='same')",
)
weighted("%x : f64[6,5]; %w : f64[8,3,3]; %b : f64[8]", 9, "conv1d(%x, %w, %b, groups=2)")
weighted("%x : f64[2,6,5,4,3]; %w : f64[8,6,3,2,2]; %b : f64[8]", 16, "conv3d(%x, %w, %b)")
weighted("%x : f64[6,5,4,3]; %w : f64[9,2,3,2,2]; %b : f64[9]", 8, "conv3d(%x, %w, %b, groups=3)")
weighted("%x : f64[2,6,5,7]; %w : f64[6,8,3,2]; %b : f64[8]", 16, """
    conv_transpose2d.input(%x, %w, %b)
    conv_transpose2d.input(%x, %w, %b, [2, 2], [1, 0], [1, 0])
    convolution(%x, %w, %b, [2, 2], [1, 0], [1, 1], True, [0, 1], 1)
""")  # fmt: skip
weighted("%x : f64[2,6,5,7]; %w : f64[6,4,3,2]; %b : f64[8]", 11, """
    conv_transpose2d.input(%x, %w, %b, groups=2)
    convolution(%x, %w, %b, [2, 2], [1, 0], [1, 1], True, [0, 1], 2)
""")  # fmt: skip
weighted("%x : f64[2,6,5,7]; %w : f64[6,1,3,2]; %b : f64[6]", 8, "conv_transpose2d.input(%x, %w, %b, groups=6)")
weighted("%x : f64[6,5,7]; %w : f64[6,2,3,2]; %b : f64[12]", 8, "conv_transpose2d.input(%x, %w, %b, groups=6)")
weighted("%x : f64[6,5]; %w : f64[6,4,3]; %b : f64[8]", 9, "conv_transpose1d(%x, %w, %b, groups=2)")
weighted("%x : f64[2,6,5,4,3]; %w : f64[6,8,3,2,2]; %b : f64[8]", 16, "conv_transpose3d.input(%x, %w, %b)")
weighted("%x : f64[2,3,4]; %w : f64[4,5]", 14, """
    einsum('bij,jk->bik', [%x, %w])
    einsum('bij, jk -> kib', [%x, %w])
    einsum('bij,jk->bk', [%x, %w])
    einsum('bij,jk', [%x, %w])
    einsum('...ij,jk->...ik', [%x, %w])
    einsum('...j,jk->k...', [%x, %w])
    einsum('...j,jk', [%x, %w])
""")  # fmt: skip
weighted(
    "%x : f64[2,3,4]; %w : f64[3,4,5]",
    14,
    "einsum('bhd,hde->be', [%x, %w])\neinsum('bhd,hde->b', [%x, %w])\neinsum('bhd,hde->bhe', [%x, %w])",
)
weighted(
    "%x : f64[2,3,4]; %w : f64[3,4]",
    9,
    "einsum('bij,ij->', [%x, %w])\neinsum('bij,ij->b', [%x, %w])\neinsum('bij,ij->ijb', [%x, %w])",
)
weighted("%x : f64[2,3,4]; %w : f64[1,4]", 9, "einsum('bij,ij->b', [%x, %w])\neinsum('bij,ij->bi', [%x, %w])")
weighted("%x : f64[2,3]; %w : f64[3,4]; %b : f64[4,5]", 14, "einsum('ij,jk,kl->il', [%x, %w, %b])")
each(X, 12, "einsum('ijk->kij', [%x])\neinsum('ijk->j', [%x])\neinsum('...k->...', [%x])")
each("%x : f64[3,3]", 0, "einsum('ii->i', [%x])")
Q = "%q : f64[2,3,5,4]; %k : f64[2,3,6,4]; %v : f64[2,3,6,7]"
each(Q, 21, "scaled_dot_product_attention(%q, %k, %v)\nscaled_dot_product_attention(%q, %k, %v, scale=0.3)")
each(Q, 16, "scaled_dot_product_attention(%q, %k, %v, None, 0.0, True)")
each(Q + "; %m : f64[5,6]", 21, "scaled_dot_product_attention(%q, %k, %v, %m)")
each(Q + "; %m : bool[2,1,1,6]", 21, "scaled_dot_product_attention(%q, %k, %v, %m, scale=0.3)", m=True)
each("%q : f64[5,4]; %k : f64[6,4]; %v : f64[6,7]", 16, "scaled_dot_product_attention(%q, %k, %v)")
each(
    '%q = param "q" : f64[3,5,4]; %k : f64[2,3,6,4]; %v : f64[2,3,6,7]', 21, "scaled_dot_product_attention(%q, %k, %v)"
)
GQA = "%q : f64[2,6,5,4]; %k : f64[2,3,6,4]; %v : f64[2,3,6,7]"
each(
    GQA,
    23,
    "scaled_dot_product_attention(%q, %k, %v, enable_gqa=True)",
)
each(GQA + "; %m : f64[6,5,6]", 23, "scaled_dot_product_attention(%q, %k, %v, %m, enable_gqa=True)")
each(Q, 21, "scaled_dot_product_attention(%q, %k, %v, enable_gqa=True)")
RNN = (
    '%x : f64[2,3,4]; %h : f64[1,2,5]; %c : f64[1,2,5]; %a = param "a" : f64[{n},4]; %b = param "b" : f64[{n},5]; '
    '%d = param "d" : f64[{n}]; %e = param "e" : f64[{n}]'
)
WEIGHTS = "[%a, %b, %d, %e], True, 1, 0.0, False, False, True"
BOTH = (
    "%x : f64[3,2,4]; %h : f64[4,2,5]; %c : f64[4,2,5]; "
    + " ".join(
        f'%{n}a = param "{n}a" : f64[20,{read}]; %{n}b = param "{n}b" : f64[20,5]; '
        for n, read in zip("stuv", (4, 4, 10, 10), strict=True)
    )
).removesuffix("; ")
STACKED = ", ".join(f"%{n}a, %{n}b" for n in "stuv")
parts(BOTH, 9, f"lstm.input(%x, [%h, %c], [{STACKED}], False, 2, 0.0, False, True, False)", 0, 1, 2)
PROJECTED = (
    '%x : f64[3,2,4]; %h : f64[1,2,3]; %c : f64[1,2,5]; %a = param "a" : f64[20,4]; %b = param "b" : f64[20,3]; '
)
parts(
    PROJECTED + '%r = param "r" : f64[3,5]', 7, "lstm.input(%x, [%h, %c], [%a, %b, %r], False, 1, 0.0, False, False, False)",
    0, 1, 2,
)  # fmt: skip
STEP = RNN.replace("[2,3,4]", "[2,4]").replace("[1,2,5]", "[2,5]")
parts(STEP.format(n=20), 9, "lstm_cell(%x, [%h, %c], %a, %b, %d, %e)", 0, 1)
for cell, n in (("gru_cell", 15), ("rnn_tanh_cell", 5), ("rnn_relu_cell", 5)):
    each(STEP.format(n=n).replace("%c : f64[2,5]; ", ""), 9, f"{cell}(%x, %h, %a, %b, %d, %e)")
parts(RNN.format(n=20), 9, f"lstm.input(%x, [%h, %c], {WEIGHTS})", 0, 1, 2)
parts(RNN.format(n=15).replace("%c : f64[1,2,5]; ", ""), 9, f"gru.input(%x, %h, {WEIGHTS})", 0, 1)
parts(RNN.format(n=5).replace("%c : f64[1,2,5]; ", ""), 9, f"rnn_tanh.input(%x, %h, {WEIGHTS})", 0, 1)
parts(RNN.format(n=5).replace("%c : f64[1,2,5]; ", ""), 9, f"rnn_relu.input(%x, %h, {WEIGHTS})", 0, 1)

# ---- statistics ----------------------------------------------------------------------------------------------------

BN = '%x : f64[3,4,5,6]; %w : f64[4]; %b : f64[4]; %m : f64[4]; %var = param "running_var" : f64[4]'
each(BN, 18, "batch_norm(%x, %w, %b, %m, %var, False, 0.1, 1e-5, False)")
each(BN.replace("%w : f64[4]; %b : f64[4]; ", ""), 18, "batch_norm(%x, None, None, %m, %var, False, 0.1, 1e-5, False)")
each(BN, 4, "batch_norm(%x, %w, %b, %m, %var, True, 0.1, 1e-5, False)")
each(BN.replace("[3,4,5,6]", "[3,4]"), 7, "batch_norm(%x, %w, %b, %m, %var, False, 0.1, 1e-5, False)")
parts(BN, 18, "_native_batch_norm_legit_no_training(%x, %w, %b, %m, %var, 0.1, 1e-5)", 0)
each(
    "%x : f64[3,4,5,6]; %w : f64[4]; %b : f64[4]",
    7,
    "instance_norm(%x, %w, %b, None, None, True, 0.1, 1e-5, False)",
)
each("%x : f64[3,4,5]", 7, "instance_norm(%x, None, None, None, None, True, 0.1, 1e-5, False)")
each(BN, 18, "instance_norm(%x, %w, %b, %m, %var, False, 0.1, 1e-5, False)")
each(BN, 4, "instance_norm(%x, %w, %b, %m, %var, True, 0.1, 1e-5, False)")
each("%x : f64[3,4,5]; %w : f64[5]; %b : f64[5]", 7, "layer_norm(%x, [5], %w, %b)")
each("%x : f64[3,4,5]", 7, "layer_norm(%x, [5])")
each("%x : f64[3,4,5]; %w : f64[4,5]; %b : f64[4,5]", 3, "layer_norm(%x, [4, 5], %w, %b)")
each(
    "%x : f64[3,4,5]; %w : f64[5]",
    12,
    "rms_norm(%x, [5], %w)\nrms_norm(%x, [5], %w, 1e-2)\nrms_norm(%x, [5], %w, eps=0.1)",
)
each("%x : f64[3,4,5]", 12, "rms_norm(%x, [5])\nrms_norm(%x, [4, 5], None, 0.1)")
each("%x : f64[3,4,5]; %w : f64[4,5]", 12, "rms_norm(%x, [4, 5], %w, 0.1)")
each("%x : f64[5,12,2,3]; %w : f64[12]; %b : f64[12]", 8, "group_norm(%x, 3, %w, %b)\ngroup_norm(%x, 3, %w, %b, 1e-2)")
each("%x : f64[5,12,2,3]; %w : f64[12]; %b : f64[12]", 5, "group_norm(%x, 1, %w, %b)")
each("%x : f64[5,12,2,3]; %w : f64[12]; %b : f64[12]", 17, "group_norm(%x, 12, %w, %b)")
each("%x : f64[5,12,2,3]", 8, "group_norm(%x, 3)")
each("%x : f64[5,12]; %w : f64[12]; %b : f64[12]", 8, "group_norm(%x, 3, %w, %b)")
for v in ("%v", '%v = param "v"'):
    VG = f"{v} : f64[6,4,3]; %g : f64[6,1,1]"
    each(VG, 13, "_weight_norm(%v, %g, 0)\n_weight_norm(%v, %g)")
    each(VG.replace("%g : f64[6,1,1]", "%g : f64[1,1,3]"), 13, "_weight_norm(%v, %g, 2)")
each(X, 8, """
    softmax.int(%x, 1)
    softmax.int(%x, -2, f64)
    log_softmax.int(%x, 1)
    _softmax(%x, 1, False)
    _log_softmax(%x, -2, False)
""")  # fmt: skip
for x in ("%x : f64[3,4,5]", '%x = param "x" : f64[3,4,5]'):
    each(x, 12, """
        mean.dim(%x, [1])
        mean.dim(%x, [-1, 0])
        mean.dim(%x, [1], True)
        mean.dim(%x, [0, 2], True)
        mean(%x)
        sum(%x)
        sum.dim_IntList(%x, [1])
        sum.dim_IntList(%x, [-1, 0], True)
        sum.dim_IntList(%x, None)
        linalg_vector_norm(%x, 2, [1])
        linalg_vector_norm(%x, 1, [0, -1], True)
        linalg_vector_norm(%x)
        linalg_vector_norm(%x, inf, [1])
        linalg_vector_norm(%x, 3, [1])
        norm.ScalarOpt_dim(%x, 2, [1])
        norm.ScalarOpt_dim(%x, None, [1, 2], True)
    """)  # fmt: skip
each(X, 8, """
    amax(%x, [1])
    amin(%x, [-2], True)
    argmax(%x, 1)
    argmin(%x, -2, True)
    std.correction(%x, [1])
    var.correction(%x, [-2], correction=0, keepdim=True)
    logsumexp(%x, [1])
    linalg_vector_norm(%x, -inf, [1])
    prod.dim_int(%x, 1)
    any.dim(%x, 1)
    all.dim(%x, 1)
""")  # fmt: skip
each(X, 0, "max(%x)\nmin(%x)\nargmax(%x)\nprod(%x)\nany(%x)\nall(%x)\nstd.correction(%x)\namax(%x)")
parts(X, 8, "max.dim(%x, 1)", 0, 1)
parts(X, 8, "min.dim(%x, -2, True)", 0, 1)
parts(X, 8, "topk(%x, 2, 1)", 0, 1)
parts(X, 7, "topk(%x, 2)", 1, 0)
parts(X, 8, "sort(%x, 1)", 1, 0)
each(X, 7, "argsort(%x)")
parts(X, 8, "var_mean.correction(%x, [1])", 0, 1)

# ---- windows -------------------------------------------------------------------------------------------------------

each(
    "%x : f64[3,4,8]",
    7,
    "max_pool1d(%x, [2])\navg_pool1d(%x, [2])\nadaptive_avg_pool1d(%x, [2])\nupsample_nearest1d.vec(%x, [16], None)",
)
each("%x : f64[4,8]", 4, "max_pool1d(%x, [2])\navg_pool1d(%x, [2])\nadaptive_avg_pool1d(%x, [2])")
each("%x : f64[3,4,6,8]", 7, """
    max_pool2d(%x, [2, 2])
    max_pool2d(%x, [3, 2], [2, 1], [1, 1], [1, 1], True)
    avg_pool2d(%x, [2, 2])
    adaptive_avg_pool2d(%x, [1, 1])
    adaptive_avg_pool2d(%x, [3, 2])
    upsample_nearest2d.vec(%x, None, [2.0, 2.0])
    upsample_nearest2d(%x, [12, 16])
    upsample_bilinear2d.vec(%x, [9, 9], False, None)
    upsample_bilinear2d(%x, [9, 9], True)
    upsample_bicubic2d.vec(%x, [9, 9], False, None)
    _upsample_bilinear2d_aa.vec(%x, [5, 5], False, None)
""")  # fmt: skip
each("%x : f64[4,6,8]", 4, "max_pool2d(%x, [2, 2])\navg_pool2d(%x, [2, 2])\nadaptive_avg_pool2d(%x, [3, 2])")
parts("%x : f64[3,4,6,8]", 7, "max_pool2d_with_indices(%x, [2, 2])", 0, 1)
parts("%x : f64[3,4,6,8]", 7, "adaptive_max_pool2d(%x, [3, 2])", 0, 1)
each("%x : f64[2,3,4,6,5]", 5, """
    max_pool3d(%x, [2, 2, 2])
    avg_pool3d(%x, [2, 2, 2])
    adaptive_avg_pool3d(%x, [2, 3, 1])
    upsample_nearest3d.vec(%x, None, [2.0, 2.0, 2.0])
    upsample_trilinear3d.vec(%x, [5, 5, 5], False, None)
""")  # fmt: skip
each(
    "%x : f64[3,4,5,6]; %g : f64[3,7,8,2]", 22, "grid_sampler(%x, %g, 0, 0, False)\ngrid_sampler_2d(%x, %g, 0, 1, True)"
)
each(
    "%x : f64[2,4,3,5,6]; %g : f64[2,3,7,8,3]",
    24,
    "grid_sampler(%x, %g, 0, 0, False)\ngrid_sampler_3d(%x, %g, 0, 0, True)",
)
