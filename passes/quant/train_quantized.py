"""Quantization-aware training."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge, Gt
from torch import fx

from fxopt import Context, Pass, Program
from fxopt.pass_manager.pass_base import Stage
from fxopt.passes.quant.aware.simulate import Simulated, simulate
from fxopt.passes.quant.decide import Placer, calibrated, check_not_quantized, decide, expose_products, policy_of
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.observers import Affine, Calibration
from fxopt.passes.quant.quantize import PREPARATION
from fxopt.passes.train.finetune import finetune
from fxopt.passes.train.loop import train
from fxopt.passes.train.supervised import Supervised
from fxopt.workload import training_workload


@dataclasses.dataclass(frozen=True)
class train_quantized(finetune):
    """Train with simulated quantization and learned step sizes (QAT), then quantize.

    Begins where quantize(correct_bias='none') would end, with the same placement and calibration, and trains weights,
    biases and step sizes on the graph in which values and weights are rounded: gradients pass straight through, and the
    steps are learned (LSQ, Esser et al. 2020, by their logarithms). Batch norms are folded first, with their present
    statistics. The result is the same graph as of quantize; it computes bit for bit what was trained.
    For kernels that add pairs in 16 bits (x86 before VNNI, or no target) steps of 8-bit weights are widened after the
    training where pairs need it, which the training has not seen.

    ``weight_bits`` 4 leaves 15 integers for each weight, which are stored as int8. The other options are those of finetune and
    of insert_qdq. Raises DataError as they do, PassError for a program that is quantized.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[4,8]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,8]
        %q = quantized_decomposed.quantize_per_tensor(%x, 1.0, 0, 0, 255, u8)
        %d = quantized_decomposed.dequantize_per_tensor(%q, 1.0, 0, 0, 255, u8)
        %w = param "fc.weight_int8" : i8[4,8]
        %s = param "fc.weight_scale" : f32[4]
        %z = param "fc.weight_zero_point" : i8[4]
        %v = quantized_decomposed.dequantize_per_channel(%w, %s, %z, 0, -127, 127, i8)
        %y = aten.linear(%d, %v)
        return %y
    """

    name: ClassVar[str] = "train_quantized"
    stage: ClassVar[Stage | None] = "numeric"

    rate: Annotated[float, Gt(0), Doc("Highest learning rate.")] = 5e-4
    weight_bits: Annotated[Literal[4, 8], Doc("Bits of a weight.")] = 8
    images: Annotated[int, Ge(1), Doc("Training examples that are run through the graph to calibrate.")] = 64
    calibration: Annotated[Calibration, Doc("How the range of an activation is found at the start.")] = "min_max"
    keep_float: Annotated[tuple[str, ...], Doc("Weights or modules that stay in float, with wildcards.")] = ()
    quantizer: Annotated[
        str | None,
        Doc("What decides what is quantized, or makes a PT2E quantizer: module:function or file.py:function."),
    ] = None

    def steps(self) -> tuple[Pass, ...]:
        """The exact preparation, and this."""
        return (*PREPARATION, self)

    def in_rungs(self, *ends: int) -> tuple[Pass, ...]:
        """One part: what follows would find a program that is quantized."""
        return (self,)

    def run(self, program: Program, context: Context = Context()) -> None:
        """Calibrate, train the simulation, emit the result."""
        check_not_quantized(program, "train it before, and quantize once")
        workload = training_workload(context.workload, self.name)
        policy = policy_of(context)
        placer = Placer(policy, self.keep_float, self.quantizer)
        expose_products(program, placer)
        placement = decide(program, placer)
        if not (placement.layers or placement.products):
            return
        ranges = calibrated(
            program,
            workload,
            placement,
            policy,
            images=self.images,
            calibration=self.calibration,
            who=self.name,
            device=context.device,
        )
        encode = functools.partial(
            encode_layers,
            program,
            placement.layers,
            policy=policy,
            bits=self.weight_bits,
            per_tensor=placement.per_tensor,
        )
        codes = encode(ranges)
        made = simulate(program, placement, ranges, codes)
        train(made.program, workload, self, Supervised(workload, self), context.device)
        program.skips += made.program.skips
        program.choices += made.program.choices
        ranges = _learned(program, made, ranges)
        steps = made.program.tensors()
        scales = {layer: steps[made.weights[layer.name]].detach().exp() for layer in placement.layers}
        codes = encode(ranges, learned=scales)
        emit(program, placement, ranges, codes)


def _learned(program: Program, made: Simulated, ranges: dict[fx.Node, Affine]) -> dict[fx.Node, Affine]:
    """Take over the weights; return the quantization parameters of values with the learned steps."""
    trained = made.program.tensors()
    program.set_tensors({name: trained[name].detach() for name in program.tensors() if name in trained})
    return {
        node: dataclasses.replace(affine, scale=float(trained[made.values[node.name]].detach().exp()))
        for node, affine in ranges.items()
    }
