"""A bias for integer convolutions that have none, which OpenVINO's kernels need where their result is read twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.backends.openvino.values import stored_as

_NEARLY_ZERO = 1e-30
"""Changes no sum in float32, and is not removed as zero would be."""


def give_biases(model: Any) -> None:
    """Add next to nothing to the result of every integer convolution that is read twice and has no bias, in place.

    Where such a result is read in float and quantized as well, OpenVINO (2026.4) quantizes other numbers than it has; behind a
    bias it does not. Names of the value go with it.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution") or stored_as(node) not in ("i8", "u8"):
            continue
        result = node.output(0)
        readers = list(result.get_target_inputs())
        if len(readers) < 2:  # that of a bias is the only one
            continue
        shape = node.get_output_partial_shape(0)
        per_channel = [1, shape[1].get_length(), *[1] * (len(shape) - 2)]
        added = opset13.add(result, opset13.constant(np.full(per_channel, _NEARLY_ZERO, np.float32)))
        added.set_friendly_name(f"{node.get_friendly_name()}/bias")
        for reader in readers:
            reader.replace_source_output(added.output(0))
        names = result.get_names()
        result.set_names(set())
        added.output(0).set_names(names)
