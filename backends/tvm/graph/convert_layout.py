"""Channels in vectors: convolutions and what stands between them are given values of [n, C / L, H, W, L].

Any number of channels is held so, filled up to whole vectors. What the channels beyond C hold is finite and nothing reads
it: weights have zeros there, and reductions over channels take values in the usual form. A value has both forms only if
it is read in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxopt.backends.tvm.frontend.provenance import PLACES
from fxopt.backends.tvm.graph.fold_constants import fold
from fxopt.backends.tvm.graph.int8.rewrite import Integers
from fxopt.backends.tvm.graph.lower_contractions import Kernels
from fxopt.backends.tvm.graph.lower_data_movement import Moves
from fxopt.backends.tvm.tiling.task import Choices

_UNARY = (
    "relax.nn.relu", "relax.nn.relu6", "relax.nn.leakyrelu", "relax.nn.silu", "relax.nn.gelu", "relax.nn.gelu_tanh",
    "relax.sigmoid", "relax.tanh", "relax.erf", "relax.clip", "relax.negative", "relax.abs", "relax.square",
)  # fmt: skip
_BINARY = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.maximum", "relax.minimum")


def use_blocked_layout(module: Any, choices: Choices) -> Any:
    """The module with convolutions, and products of matrices, as kernels that compute in tiles of ``choices``.

    Returns the module as it is where ``main`` has control flow.
    """
    from tvm import relax

    main = module["main"]
    if not all(isinstance(block, relax.DataflowBlock) for block in main.body.blocks):
        return module
    attributes = {key: value for key, value in main.attrs.items() if key != "global_symbol"} if main.attrs else {}
    places = {str(name): str(text) for name, text in attributes.pop(PLACES, {}).items()}
    rewriter = _Rewriter(choices, places)
    builder = rewriter.builder
    with builder.function("main", list(main.params), attrs=attributes):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    rewriter.bind(binding)
            result = builder.emit_output(rewriter.plain(main.body.body))
        builder.emit_func_output(result)
    choices.facts.update(rewriter.integers.facts())
    return builder.get()


class _Rewriter(Kernels, Moves):
    """Goes through the bindings in order; knows each value in the usual form, in vectors, as numbers, or in several."""

    def __init__(self, choices: Choices, places: dict[str, str]) -> None:
        super().__init__(choices, places)
        self.integers = Integers(self)
        self._handlers: dict[str, Callable[[Any, Any], bool]] = {
            "relax.nn.conv2d": self._convolve, "relax.matmul": self._multiply, "relax.permute_dims": self._turned,
            **dict.fromkeys(("relax.reshape", "relax.expand_dims", "relax.squeeze"), self._reshape),
            "relax.strided_slice": self._slice, "relax.split": self._split,
            "relax.nn.max_pool2d": self._pool, "relax.nn.avg_pool2d": self._pool, "relax.mean": self._mean,
            "relax.concat": self._concat, "relax.broadcast_to": self._broadcast,
            **dict.fromkeys(_UNARY, self._unary), **dict.fromkeys(_BINARY, self._binary),
        }  # fmt: skip

    def bind(self, binding: Any) -> None:
        """Rewrite one binding."""
        from tvm import relax
        from tvm.ir import Call, Op

        var, value = binding.var, binding.value
        if isinstance(binding, relax.MatchCast):
            self._plain[var] = self.builder.match_cast(self.plain(value), binding.ty)
            return
        if isinstance(value, relax.TupleGetItem) and self._part(var, value):
            return
        if isinstance(value, Call) and isinstance(value.op, Op):
            if self.integers.bind(var, value):
                return
            numbers = [self.numbers(arg) for arg in value.args]
            folded = fold(value, numbers)
            if folded is not None:
                self._numbers[var] = folded
                return
            handler = self._handlers.get(value.op.name)
            if handler is not None and handler(var, value):
                return
        self._plain[var] = self.builder.emit(self.plain(value))

    def _turned(self, var: Any, call: Any) -> bool:
        """A product reads through a swap of its last dims; whatever else does reads what was moved."""
        self._permute(var, call)
        return self._turn(var, call)

    def plain_codes(self, expr: Any) -> Any:
        """The usual form of a value that is known as codes only; None for others."""
        return self.integers.plain(expr)
