"""Convolutions and products of codes, as integer sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.backends.tvm.frontend.provenance import stem
from fxopt.backends.tvm.graph.int8.lower_batched_matmul import Products
from fxopt.backends.tvm.graph.relax_utils import ints, is_int, is_var, usual
from fxopt.backends.tvm.ops import int8_contraction
from fxopt.backends.tvm.ops.affine_value import Code, Place, Sum
from fxopt.backends.tvm.ops.int8_kernel import tiling_of
from fxopt.backends.tvm.ops.int8_packing import join, pack
from fxopt.backends.tvm.tiling.amx import gathers
from fxopt.backends.tvm.tiling.int8_geometry import Geometry, product


class Layers(Products):
    """Handlers of ops that multiply."""

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
        padding, stride = ints(attrs.padding), ints(attrs.strides)
        flat = joined.shape[2:] == (1, 1) and stride == (1, 1) and not any(padding) and groups == 1
        geometry = Geometry(
            held=int(held), outputs=len(joined), kernel=tuple(joined.shape[2:]), stride=stride, padding=padding,
            dilation=ints(attrs.dilation), groups=groups, per_group=joined.shape[1],
            height=1 if flat else high, width=high * wide if flat else wide, usual=wide, instruction=self.instruction,
        )  # fmt: skip
        if gathers(geometry):
            geometry, flat = geometry.gathered(), True
        tiling, zero = tiling_of(geometry, self.floats.choices), source.code.zero
        codes = source.terms[0][0]
        if flat and geometry.windows is None:
            codes = self._shaped(codes, (n, 1, high * wide, held))
        packed = relax.const(pack(joined, geometry, tiling), "int8")

        def conv2d(data: Any, weight: Any) -> Any:
            return int8_contraction.convolve(geometry, tiling, zero, data, weight)

        sums = self._emit(conv2d, codes, packed, name="conv2d_int8", fuses=True)
        place = Place(tuple(sums.ty.shape), len(joined), image=True, flat=flat)
        self.known[var] = self._scaled(sums, place, source.code, scales, sums_of_weights)
        return True

    def _multiply(self, var: Any, call: Any) -> bool:
        from tvm import relax

        left, right = call.args
        if right in self.known:
            return self._multiply_codes(var, left, right)
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
        codes = self._usual(total.terms[0][0], total, left)
        codes = self._shaped(codes, (rows, depth))
        known = int(rows) if is_int(rows) else None
        geometry = product(known, depth, columns, known or usual(rows), self.instruction)
        tiling = tiling_of(geometry, self.floats.choices)

        def matmul(data: Any, weight: Any) -> Any:
            return int8_contraction.multiply(geometry, tiling, data, weight)

        packed = relax.const(pack(integers.T.reshape(columns, depth, 1, 1), geometry, tiling), "int8")
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
        found = self.weights.get(expr) if is_var(expr) else None
        if found is None or found[2] not in (None, axis):
            return None
        return found[0], found[1]

    def _note(self, var: Any, call: Any) -> None:
        data, weight = call.args[:2]
        if data not in self.known and weight not in self.known and weight not in self.weights:
            why = "neither side of it comes out of a dequantize op"
        elif data not in self.known or self.known[data].code is None:
            why = "its input does not come out of a dequantize op"
        elif weight in self.known:
            why = "its right side does not come out of a dequantize op, or sizes of the two vary or differ"
        elif weight not in self.weights:
            why = "its weight is not stored as int8 codes"
        else:
            why = "its codes have a form that there is no integer kernel for"
        self.float_layers.append(f"{self.floats.places.get(stem(var.name), call.op.name)}: {why}")
