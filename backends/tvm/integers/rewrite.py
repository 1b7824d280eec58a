"""Goes through a program beside the float rewriter, and keeps in codes what can be: see ``Integers``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fxopt.backends.tvm.integers import contraction, epilogue, pools
from fxopt.backends.tvm.integers.geometry import Geometry, product
from fxopt.backends.tvm.integers.instructions import SPOKEN, instruction_of
from fxopt.backends.tvm.integers.packing import join, pack
from fxopt.backends.tvm.integers.values import Code, Place, Sum, coded

QUANTIZE, DEQUANTIZE = "fxopt.quantize", "fxopt.dequantize"
"""Calls in an imported module: (x, scale, zero point, low, high), and (codes, scale, zero point, axis, low, high)."""
_MOVES = ("relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims")
_ELEMENTWISE = (
    "relax.nn.leakyrelu", "relax.nn.silu", "relax.nn.gelu", "relax.nn.gelu_tanh", "relax.sigmoid", "relax.tanh",
    "relax.erf", "relax.negative", "relax.abs", "relax.square",
)  # fmt: skip


class Integers:
    """What is known of values in codes, and the handlers of ops that read them.

    A dequantize op computes nothing: its result is known as a sum with one term, the codes. A convolution or product of
    codes gives a sum whose term is the integer sums; biases, residuals and bounds go into the sum as they come; and a
    quantize op computes codes of it, at the end of the kernel that multiplies. Any other op is given numbers in float.
    """

    def __init__(self, floats: Any) -> None:
        self.floats = floats
        self.instruction = instruction_of(floats.choices.processor)
        self.known: dict[Any, Sum] = {}
        self.codes: dict[Any, Sum] = {}
        self.weights: dict[Any, tuple[Any, Any, int | None]] = {}
        self.integer, self.float_layers = 0, list[str]()
        self._handlers: dict[str, Callable[[Any, Any], bool]] = {
            QUANTIZE: self._quantize, DEQUANTIZE: self._dequantize, "relax.nn.conv2d": self._convolve,
            "relax.matmul": self._multiply, "relax.add": self._add, "relax.multiply": self._scale,
            "relax.nn.relu": self._bound, "relax.nn.relu6": self._bound, "relax.clip": self._bound,
            "relax.nn.max_pool2d": self._pool, "relax.nn.avg_pool2d": self._pool, "relax.mean": self._mean,
            "relax.concat": self._concat, "relax.broadcast_to": self._broadcast, **dict.fromkeys(_MOVES, self._move),
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
        }  # fmt: skip

    def bind(self, var: Any, call: Any) -> bool:
        """Rewrite one binding; False if it is to be done in float."""
        handler = self._handlers.get(_name(call))
        if handler is not None and handler(var, call):
            return True
        if _name(call) in ("relax.nn.conv2d", "relax.matmul"):
            self._note(var, call)
        return False

    def facts(self) -> dict[str, Any]:
        """For the report: how many convolutions and products are computed in integers, and why others are in float."""
        counts = {"integer_contractions": self.integer, "float_contractions": len(self.float_layers)}
        if not (self.codes or self.weights):
            return counts
        return counts | {"float_because": self.float_layers, "integer_instruction": SPOKEN[self.instruction.kind]}

    def plain(self, var: Any) -> Any:
        """A value in the usual form: numbers in float, or the program's own codes; None if nothing is known of it."""
        if var in self.known:
            return self.usual(self._real(self.known[var]), self.known[var], var)
        if var in self.codes:
            total = self.codes[var]
            assert total.code is not None
            expr = self.usual(total.terms[0][0], total, var)
            return self._own_codes(expr, total.code)
        return None

    # ---- in and out of codes -----------------------------------------------------------------------------------------

    def _quantize(self, var: Any, call: Any) -> bool:
        _, x, *numbers = call.args
        code = self._code(*(_number(value) for value in numbers), str(var.ty.dtype.dtype))
        total = self.known.get(x)
        if total is None:
            shape = tuple(x.ty.shape)
            total = Sum(Place(shape, _channels(shape)), ((self.floats.plain(x), np.float32(1.0)),))
        if total.code != code:
            function, arrays = epilogue.rounded(total, code)
            total = coded(self._on_terms(function, total, arrays, "quantized"), code, total.place)
        self.codes[var] = total
        return True

    def _dequantize(self, var: Any, call: Any) -> bool:
        _, q, scale, zero, axis, low, high = call.args
        numbers, given = self.floats.numbers(q), str(q.ty.dtype.dtype)
        scales, zeros = self._array(scale), self._array(zero)
        if numbers is not None:
            along = None if scales.ndim == 0 else int(_number(axis))
            if given == "int8" and not zeros.any():
                self.weights[var] = numbers, scales, along
            shape = [1] * numbers.ndim
            if along is not None:
                shape[along] = -1
            real = (numbers.astype(np.float32) - zeros.astype(np.float32).reshape(shape)) * scales.reshape(shape)
            self.floats.set_numbers(var, real.astype(np.float32).reshape(numbers.shape))
            return True
        if q not in self.codes:
            if scales.ndim:
                raise ValueError("activations have a scale for each channel, and only weights may")
            code = self._code(float(scales), int(zeros), _number(low), _number(high), given)
            shape = tuple(q.ty.shape)
            self.codes[q] = coded(self._stored(self.floats.plain(q), code), code, Place(shape, _channels(shape)))
        self.known[var] = self.codes[q]
        return True

    def _code(self, scale: float, zero: float, low: float, high: float, given: str) -> Code:
        stored, offset = given, 0
        if given in ("uint8", "int8"):
            stored = self.instruction.stored[0]
            offset = {("uint8", "int8"): 128, ("int8", "uint8"): -128}.get((given, stored), 0)
        return Code(float(scale), int(zero) - offset, int(low) - offset, int(high) - offset, stored, given, offset)

    def _array(self, expr: Any) -> Any:
        numbers = self.floats.numbers(expr)
        return np.asarray(_number(expr) if numbers is None else numbers)

    def _stored(self, expr: Any, code: Code) -> Any:
        return expr if not code.offset else self._shifted(expr, -code.offset, code.dtype)

    def _own_codes(self, expr: Any, code: Code) -> Any:
        return expr if not code.offset else self._shifted(expr, code.offset, code.given)

    def _shifted(self, expr: Any, by: int, dtype: str) -> Any:
        def shift(data: Any) -> Any:
            from tvm import te

            return te.compute(data.shape, lambda *at: (data[at].astype("int32") + by).astype(dtype), name="shifted")

        return self._emit(shift, expr, name="shift")

    # ---- the forms of a value ----------------------------------------------------------------------------------------

    def _emit(self, function: Callable[..., Any], *args: Any, name: str, fuses: bool = False) -> Any:
        return self.floats._emit(function, *args, name=name, fuses=fuses)

    def _on_terms(self, function: Callable[..., Any], total: Sum, arrays: list[Any], name: str) -> Any:
        from tvm import relax

        terms = [self._shaped(expr, total.place.shape) for expr, _ in total.terms]
        return self._emit(function, *terms, *(relax.const(array, "float32") for array in arrays), name=name)

    def _real(self, total: Sum) -> Any:
        """Numbers in float, in the place of a sum."""
        if "real" not in total.made:
            function, arrays = epilogue.real(total)
            total.made["real"] = self._on_terms(function, total, arrays, "dequantized")
        return total.made["real"]

    def _shaped(self, expr: Any, shape: Any) -> Any:
        from tvm import relax

        return expr if _same(expr.ty.shape, shape) else self.floats.builder.emit(relax.op.reshape(expr, list(shape)))

    def usual(self, expr: Any, total: Sum, var: Any) -> Any:
        """What lies in the place of a sum, as [n, C, H, W] or in the shape of the variable."""
        if not total.place.image:
            return self._shaped(expr, var.ty.shape)
        n, _, high, wide = var.ty.shape
        expr = self._shaped(expr, (n, high, wide, total.place.held))
        return self._emit(pools.from_image(total.place.channels), expr, name="from_image")

    def _image(self, var: Any) -> Sum | None:
        """Codes of one byte as [n, H, W, held]; None if there are none."""
        total = self.known.get(var)
        if total is None or total.code is None or total.code.dtype not in ("uint8", "int8") or len(var.ty.shape) != 4:
            return None
        n, channels, high, wide = var.ty.shape
        if not all(_is_int(size) for size in (channels, high, wide)):
            return None
        if not total.place.image:
            if "image" not in total.made:
                channels = int(channels)
                held = self.instruction.held(channels)
                data = self._shaped(total.terms[0][0], var.ty.shape)
                turned = self._emit(pools.to_image(channels, held, total.code.zero), data, name="to_image")
                total.made["image"] = coded(turned, total.code, Place((n, high, wide, held), channels, image=True))
            return total.made["image"]  # type: ignore[no-any-return]
        shape = (n, high, wide, total.place.held)
        expr = self._shaped(total.terms[0][0], shape)
        return coded(expr, total.code, Place(shape, total.place.channels, image=True))

    # ---- contractions ------------------------------------------------------------------------------------------------

    def _convolve(self, var: Any, call: Any) -> bool:
        from tvm import relax

        data, attrs = call.args[0], call.attrs
        source, weight = self._image(data), self._weight(call.args[1], 0)
        if source is None or weight is None or (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW"):
            return False
        assert source.code is not None
        lanes, inputs = self.instruction.lanes, source.place.channels
        integers, scales = weight
        sums_of_weights = integers.reshape(len(integers), -1).sum(1, dtype=np.int64)
        joined, groups = join(integers, inputs, int(attrs.groups), lanes)
        n, high, wide, held = source.place.shape
        high, wide = int(high), int(wide)
        padding, stride = _ints(attrs.padding), _ints(attrs.strides)
        flat = joined.shape[2:] == (1, 1) and stride == (1, 1) and not any(padding) and groups == 1
        geometry = Geometry(
            held=int(held), outputs=len(joined), kernel=tuple(joined.shape[2:]), stride=stride, padding=padding,
            dilation=_ints(attrs.dilation), groups=groups, per_group=joined.shape[1],
            height=1 if flat else high, width=high * wide if flat else wide, usual=wide, instruction=self.instruction,
        )  # fmt: skip
        tiling, zero = geometry.tiling(self.floats.choices), source.code.zero
        codes = self._shaped(source.terms[0][0], (n, 1, high * wide, held)) if flat else source.terms[0][0]
        packed = relax.const(pack(joined, geometry), "int8")

        def conv2d(data: Any, weight: Any) -> Any:
            return contraction.convolve(geometry, tiling, zero, data, weight)

        sums = self._emit(conv2d, codes, packed, name="conv2d_int8", fuses=True)
        place = Place(tuple(sums.ty.shape), len(joined), image=True, flat=flat)
        self.known[var] = self._scaled(sums, place, source.code, scales, sums_of_weights)
        return True

    def _multiply(self, var: Any, call: Any) -> bool:
        from tvm import relax

        left, right = call.args
        total, weight = self.known.get(left), self._weight(right, 1)
        if total is None or total.code is None or weight is None or weight[0].ndim != 2:
            return False
        if total.code.dtype not in ("uint8", "int8"):
            return False
        integers, scales = weight
        depth, columns = integers.shape
        lead = list(left.ty.shape)[:-1]
        rows = 1
        for size in lead:
            rows = size * rows
        codes = self.usual(total.terms[0][0], total, left)
        codes = self._shaped(codes, (rows, depth))
        known = int(rows) if _is_int(rows) else None
        geometry = product(known, depth, columns, known or _usual_rows(rows), self.instruction)
        tiling = geometry.tiling(self.floats.choices)

        def matmul(data: Any, weight: Any) -> Any:
            return contraction.multiply(geometry, tiling, data, weight)

        packed = relax.const(pack(integers.T.reshape(columns, depth, 1, 1), geometry), "int8")
        sums = self._emit(matmul, codes, packed, name="matmul_int8", fuses=True)
        place = Place(tuple(sums.ty.shape), columns)
        self.known[var] = self._scaled(sums, place, total.code, scales, integers.sum(0, dtype=np.int64))
        return True

    def _scaled(self, sums: Any, place: Place, code: Code, scales: Any, sums_of_weights: Any) -> Sum:
        """Integer sums times both scales, less what the zero point of the input adds to each."""
        self.integer += 1
        factor = np.broadcast_to(np.float32(code.scale) * scales.astype(np.float32), sums_of_weights.shape)
        bias = (-code.zero * sums_of_weights).astype(np.float32) * factor
        fill = (0, place.held - len(factor))
        return Sum(place, ((sums, np.pad(factor, fill)),), np.pad(bias, fill))

    def _weight(self, expr: Any, axis: int) -> tuple[Any, Any] | None:
        """Codes of a weight, and scales that lie along ``axis`` or are one."""
        found = self.weights.get(expr) if _is_var(expr) else None
        if found is None or found[2] not in (None, axis):
            return None
        return found[0], found[1]

    def _note(self, var: Any, call: Any) -> None:
        shapes = " x ".join(str(list(arg.ty.shape)) for arg in call.args[:2])
        data, weight = call.args[:2]
        if data not in self.known and weight not in self.known and weight not in self.weights:
            why = "neither side of it comes out of a dequantize op"
        elif data not in self.known or self.known[data].code is None:
            why = "its input does not come out of a dequantize op"
        elif weight not in self.weights:
            why = "its weight is not stored as int8 codes"
        else:
            why = "its codes have a form that there is no integer kernel for"
        self.float_layers.append(f"{_name(call).removeprefix('relax.')} {shapes}: {why}")

    # ---- what is taken into a sum ------------------------------------------------------------------------------------

    def _add(self, var: Any, call: Any) -> bool:
        left, right = call.args
        if left not in self.known:
            left, right = right, left
        one = self.known.get(left) if _is_var(left) else None
        if one is None or not _same(left.ty.shape, var.ty.shape):
            return False
        one = self._unclipped(one)
        numbers = self.floats.numbers(right)
        if numbers is not None:
            along = self._along(numbers, one, len(var.ty.shape))
            if along is None:
                return False
            self.known[var] = one.plus(along)
            return True
        if not _is_var(right) or not _same(right.ty.shape, var.ty.shape):
            return False
        other = self.known.get(right)
        if other is None:
            if one.place.image:
                return False
            expr = self.floats.plain(right)
            other = Sum(one.place, ((self._shaped(expr, one.place.shape), np.float32(1.0)),))
        if one.place.image != other.place.image:
            turned = self._image(right) if one.place.image else self._image(left)
            if turned is None:
                return False
            one, other = (one, turned) if one.place.image else (turned, other)
        other = self._unclipped(other)
        place = other.place if other.place.flat else one.place
        self.known[var] = Sum(place, (*one.terms, *other.terms), one.bias + other.bias)
        return True

    def _scale(self, var: Any, call: Any) -> bool:
        left, right = call.args
        if left not in self.known:
            left, right = right, left
        one = self.known.get(left) if _is_var(left) else None
        if one is None or not _same(left.ty.shape, var.ty.shape):
            return False
        numbers = self.floats.numbers(right)
        if numbers is not None:
            along = self._along(numbers, one, len(var.ty.shape))
            if along is None:
                return False
            self.known[var] = self._unclipped(one).times(along)
            return True
        other = self.known.get(right) if _is_var(right) else None
        if other is None or not (one.place.image and other.place.image):
            return False
        from tvm import relax

        n, channels, high, wide = right.ty.shape
        if not _same((channels,), (var.ty.shape[1],)):
            return False
        gate = self._shaped(self._real(other), (n, high, wide, other.place.held))
        n, _, high, wide = var.ty.shape
        data = self._shaped(self._real(one), (n, high, wide, one.place.held))
        made = self.floats.builder.emit(relax.op.multiply(data, gate))
        place = Place(tuple(made.ty.shape), one.place.channels, image=True)
        self.known[var] = Sum(place, ((made, np.float32(1.0)),))
        return True

    def _along(self, numbers: Any, total: Sum, rank: int) -> Any:
        """Numbers, one or one a channel, over the held channels of a sum; None where they differ in other dims."""
        if numbers.size == 1:
            return np.float32(numbers.reshape(()))
        shape = (1,) * (rank - numbers.ndim) + numbers.shape
        axis = 1 if total.place.image else rank - 1
        if numbers.size != shape[axis] or numbers.size != total.place.channels:
            return None
        return np.pad(numbers.reshape(-1).astype(np.float32), (0, total.place.held - numbers.size))

    def _unclipped(self, total: Sum) -> Sum:
        return total if not total.clipped else Sum(total.place, ((self._real(total), np.float32(1.0)),))

    def _bound(self, var: Any, call: Any) -> bool:
        total = self.known.get(call.args[0])
        if total is None:
            return False
        if _name(call) == "relax.clip":
            low, high = (float(_number(value)) for value in call.args[1:3])
        else:
            low, high = 0.0, 6.0 if _name(call) == "relax.nn.relu6" else np.inf
        if total.upper is not None and low > total.upper:
            return False
        self.known[var] = total.clip(None if low == -np.inf else low, None if high == np.inf else high)
        return True

    def _elementwise(self, var: Any, call: Any) -> bool:
        from tvm.ir import Call

        total = self.known.get(call.args[0])
        if total is None:
            return False
        made = Call(call.op, [self._real(total), *call.args[1:]], call.attrs, call.ty_args)
        self.known[var] = Sum(total.place, ((self.floats.builder.emit(made), np.float32(1.0)),))
        return True

    # ---- what moves codes --------------------------------------------------------------------------------------------

    def _move(self, var: Any, call: Any) -> bool:
        from tvm.ir import Call

        source = call.args[0]
        if _is_var(source) and source in self.weights:
            self._move_weight(var, call)
            return False
        total = self.known.get(source)
        if total is None:
            return False
        same_rows = _name(call) == "relax.reshape" and _same(list(source.ty.shape)[-1:], list(var.ty.shape)[-1:])
        if not total.place.image and same_rows:
            self.known[var] = total
            return True
        if total.code is None:
            return False
        expr = self.usual(total.terms[0][0], total, source)
        moved = self.floats.builder.emit(Call(call.op, [expr, *call.args[1:]], call.attrs, call.ty_args))
        shape = tuple(var.ty.shape)
        self.known[var] = coded(moved, total.code, Place(shape, _channels(shape)))
        return True

    def _broadcast(self, var: Any, call: Any) -> bool:
        """Pass by what changes nothing; a matrix of weights that stands for many equal ones stays one."""
        source = call.args[0]
        if not _is_var(source):
            return False
        if source in self.weights and self.weights[source][0].ndim == 2:
            self.weights[var] = self.weights[source]
        if source in self.known and _same(source.ty.shape, var.ty.shape):
            self.known[var] = self.known[source]
            return True
        return False

    def _move_weight(self, var: Any, call: Any) -> None:
        integers, scales, axis = self.weights[call.args[0]]
        if _name(call) == "relax.permute_dims" and integers.ndim == len(var.ty.shape):
            axes = [int(a) for a in call.attrs.axes] if call.attrs.axes is not None else list(range(integers.ndim))[::-1]
            self.weights[var] = integers.transpose(axes), scales, None if axis is None else axes.index(axis)

    def _pool(self, var: Any, call: Any) -> bool:
        source, attrs = self._image(call.args[0]), call.attrs
        if source is None or attrs.layout != "NCHW":
            return False
        largest = _name(call) == "relax.nn.max_pool2d"
        top, left, bottom, right = _ints(attrs.padding)
        size, (n, _, *out) = _ints(attrs.pool_size), var.ty.shape
        assert source.code is not None
        if not largest and ((any((top, left, bottom, right)) and not attrs.count_include_pad) or attrs.ceil_mode):
            return False
        code = source.code
        border = int(np.iinfo(code.dtype).min) if largest else code.zero
        function = pools.window(
            "max" if largest else "sum", size, _ints(attrs.strides), (top, left), _ints(attrs.dilation), _ints(out), border
        )
        made = self._emit(function, source.terms[0][0], name="max_pool" if largest else "avg_pool", fuses=not largest)
        place = Place(tuple(made.ty.shape), source.place.channels, image=True)
        if largest:
            self.known[var] = coded(made, code, place)
        else:
            self.known[var] = self._mean_of(made, place, code, size[0] * size[1])
        return True

    def _mean(self, var: Any, call: Any) -> bool:
        source = self._image(call.args[0])
        if source is None or call.attrs.axis is None or sorted(a % 4 for a in _ints(call.attrs.axis)) != [2, 3]:
            return False
        assert source.code is not None
        n, high, wide, held = source.place.shape
        made = self._emit(pools.total, source.terms[0][0], name="mean", fuses=True)
        place = Place(tuple(made.ty.shape), source.place.channels, image=True)
        total = self._mean_of(made, place, source.code, int(high) * int(wide))
        if bool(call.attrs.keepdims):
            self.known[var] = total
            return True
        if place.held != place.channels:
            return False
        flat = Place((n, held), place.channels)
        self.known[var] = Sum(flat, tuple((self._shaped(e, flat.shape), f) for e, f in total.terms), total.bias)
        return True

    @staticmethod
    def _mean_of(sums: Any, place: Place, code: Code, count: int) -> Sum:
        scale = np.float32(code.scale)
        return Sum(place, ((sums, scale / np.float32(count)),), np.float32(-code.zero) * scale)

    def _concat(self, var: Any, call: Any) -> bool:
        parts = [self._image(part) for part in self.floats._fields(call.args[0])]
        if not parts or any(part is None for part in parts) or int(call.attrs.axis) % 4 != 1:
            return False
        known = [part for part in parts if part is not None]
        counts = [part.place.channels for part in known]
        held = self.instruction.held(sum(counts))
        n, _, high, wide = var.ty.shape
        place = Place((n, high, wide, held), sum(counts), image=True)
        first = known[0].code
        alike = all(part.code == first for part in known)
        operands = [part.terms[0][0] if alike else self._real(part) for part in known]
        made = self._emit(pools.joined(counts, held), *operands, name="concat")
        if alike and first is not None:
            self.known[var] = coded(made, first, place)
        else:
            self.known[var] = Sum(place, ((made, np.float32(1.0)),))
        return True


def _name(call: Any) -> str:
    """The op of a call; of a call of a function outside, that function's name."""
    from tvm import relax

    name = str(call.op.name)
    if name == "relax.call_pure_packed" and isinstance(call.args[0], relax.ExternFunc):
        return str(call.args[0].global_symbol)
    return name


def _number(expr: Any) -> Any:
    value = getattr(expr, "value", expr)
    if hasattr(value, "numpy"):
        return value.numpy().item()
    return getattr(value, "value", value)


def _channels(shape: Any) -> int:
    return int(shape[-1]) if len(shape) and _is_int(shape[-1]) else -1


def _same(one: Any, other: Any) -> bool:
    from tvm_ffi import structural_equal

    one, other = list(one), list(other)
    return len(one) == len(other) and all(
        int(a) == int(b) if _is_int(a) and _is_int(b) else structural_equal(a, b) for a, b in zip(one, other, strict=True)
    )


def _is_var(expr: Any) -> bool:
    from tvm import relax

    return isinstance(expr, relax.Var)


def _is_int(size: Any) -> bool:
    from tvm import tirx

    return isinstance(size, (int, tirx.IntImm))


def _ints(values: Any) -> Any:
    return tuple(int(value) for value in values)


def _usual_rows(rows: Any) -> int:
    from fxopt.backends.tvm.sizes import usual

    return usual(rows)
