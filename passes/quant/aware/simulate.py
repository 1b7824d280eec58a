"""A program whose values and weights pass through fake quantization, with step sizes to be learned."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.shared_copy import shared_copy
from fxopt.passes.quant.aware.fake_quantize import fake_quantize, fake_quantize_bias
from fxopt.passes.quant.encode import LayerCodes
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.placement import Placement

_FAKE = fake_quantize._opoverload
_FAKE_BIAS = fake_quantize_bias._opoverload


@dataclass
class Simulated:
    """``program`` is the simulation; the names of its step sizes, by the node of the value or layer in the original."""

    program: Program
    values: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)


def simulate(
    program: Program, placement: Placement, ranges: dict[fx.Node, Affine], codes: dict[fx.Node, LayerCodes]
) -> Simulated:
    """A copy that computes bit for bit the same as the quantized program will, and can be trained.

    Values that share a scale share the step size, and so do layers that share a weight.
    """
    made = Simulated(shared_copy(program))
    here = {node.name: node for node in made.program.graph.nodes}
    for node, affine in ranges.items():
        _fake_value(made, here, placement, node, affine)
    stored: dict[int, fx.Node] = {}
    for layer, found in codes.items():
        _fake_weight(made, here[layer.name], found, stored)
    made.program.graph.lint()
    made.program.module.recompile()
    derive_shapes(made.program)
    return made


def _fake_value(made: Simulated, here: dict[str, fx.Node], placement: Placement, node: fx.Node, affine: Affine) -> None:
    twin, owner = here[node.name], placement.values[node].name
    readers = [here[u.name] for u in node.users if placement.quantizes(node, u)]
    first = made.program.inputs()[-1].next if twin.op == "placeholder" else twin.next
    if owner in made.values:
        with made.program.graph.inserting_before(first):
            step = made.program.graph.get_attr(made.values[owner])
    else:
        step = made.program.add_tensor(f"{owner}_log_scale", torch.tensor(affine.scale).log(), first)
        made.values[owner] = str(step.target)
    made.values[node.name] = made.values[owner]
    with made.program.graph.inserting_before(first):
        fake = made.program.graph.call_function(_FAKE, (twin, step, affine.zero_point, *affine.form.limits))
    for reader in readers:
        reader.replace_input_with(twin, fake)


def _fake_weight(made: Simulated, layer: fx.Node, codes: LayerCodes, stored: dict[int, fx.Node]) -> None:
    weight = arguments(layer)["weight"]
    fake = stored.get(id(codes.weight))
    if fake is None:
        step = made.program.add_tensor(f"{codes.weight.name}_log_scale", codes.weight.scales.log(), layer)
        with made.program.graph.inserting_before(layer):
            fake = made.program.graph.call_function(_FAKE, (weight, step, 0, *codes.weight.limits))
        stored[id(codes.weight)] = fake
    layer.replace_input_with(weight, fake)
    made.weights[layer.name] = str(fake.args[1].target)  # type: ignore[union-attr]
    call = arguments(layer)
    if call["bias"] is not None:
        with made.program.graph.inserting_before(layer):
            steps = (call["input"].args[1], fake.args[1])  # the input is fake-quantized by now
            bias = made.program.graph.call_function(_FAKE_BIAS, (call["bias"], *steps))
        layer.replace_input_with(call["bias"], bias)
