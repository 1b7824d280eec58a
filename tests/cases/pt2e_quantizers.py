"""Functions that return PT2E quantizers, for tests of ``quantize(quantizer=…)``."""

import torch
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86_quantizer

ACTIVATION = QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_affine)
WEIGHT = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, 0)


def x86() -> Quantizer:
    return x86_quantizer.X86InductorQuantizer().set_global(x86_quantizer.get_default_x86_inductor_quantization_config())


def x86_of_7_bits() -> Quantizer:
    config = x86_quantizer.get_default_x86_inductor_quantization_config(reduce_range=True)
    return x86_quantizer.X86InductorQuantizer().set_global(config)


def not_configured() -> Quantizer:
    return x86_quantizer.X86InductorQuantizer()


class Written(Quantizer):
    """Layers with signed inputs and one ``weight`` spec; ``more(node)`` gives annotations of other nodes."""

    def __init__(self, more=lambda node: None, weight=WEIGHT, activation=ACTIVATION):
        self.more, self.weight, self.activation = more, weight, activation

    def annotate(self, model):
        for node in model.graph.nodes:
            if node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
                inputs = {node.args[0]: self.activation, node.args[1]: self.weight}
                node.meta["quantization_annotation"] = QuantizationAnnotation(inputs, _annotated=True)
            elif (note := self.more(node)) is not None:
                node.meta["quantization_annotation"] = note
        return model

    def validate(self, model):
        pass


def signed() -> Quantizer:
    return Written()


def one_scale() -> Quantizer:
    per_tensor = QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_symmetric)
    return Written(weight=per_tensor)


def shared() -> Quantizer:
    """Both parts of a concatenation and its result at one scale."""

    def more(node):
        if node.target != torch.ops.aten.cat.default:
            return None
        first, *others = node.args[0]
        share = SharedQuantizationSpec((first, node))
        return QuantizationAnnotation({first: ACTIVATION} | dict.fromkeys(others, share), share, _annotated=True)

    return Written(more)


def fixed_sigmoid() -> Quantizer:
    spec = FixedQParamsQuantizationSpec(torch.uint8, 1 / 256, 0, 0, 255, torch.per_tensor_affine)

    def more(node):
        found = node.target == torch.ops.aten.sigmoid.default
        return QuantizationAnnotation({}, spec, _annotated=True) if found else None

    return Written(more)


def in_float8() -> Quantizer:
    return Written(activation=QuantizationSpec(torch.float8_e4m3fn, MinMaxObserver, qscheme=torch.per_tensor_affine))


def few_bits() -> Quantizer:
    return Written(weight=QuantizationSpec(torch.int8, MinMaxObserver, -8, 7, torch.per_channel_symmetric, 0))


def broken() -> Quantizer:
    raise ValueError("no such configuration")
