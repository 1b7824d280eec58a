"""Int8 weights of convolutions in float, unpacked once as the runtime loads them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


def unpack_weights(model: Any) -> None:
    """Write DequantizeLinear of a stored weight as a cast and a product, in place, where convolutions with a float input read it.

    The runtime folds these two when it loads the file; a DequantizeLinear it keeps, for integer kernels, and runs at every
    call. In the program they would be folded into floats by the exporter.
    """
    import onnx

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    readers: dict[str, list[bool]] = defaultdict(list)
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers[name].append(node.op_type == "Conv" and place == 1 and node.input[0] not in dequantized)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if not all(readers[node.output[0]]) or not _is_symmetric_by_outputs(node, stored):
            graph.node.append(node)
            continue
        codes, scales, (result,) = stored[node.input[0]], stored[node.input[1]], node.output
        factors = onnx.TensorProto()
        factors.CopyFrom(scales)
        factors.name = f"{result}_factors"
        factors.dims[:] = [*scales.dims, *[1] * (len(codes.dims) - 1)]
        graph.initializer.append(factors)
        cast = onnx.helper.make_node(
            "Cast", [codes.name], [f"{result}_codes"], f"{node.name}_codes", to=scales.data_type
        )
        graph.node.append(cast)
        graph.node.append(onnx.helper.make_node("Mul", [f"{result}_codes", factors.name], [result], node.name))


def _is_symmetric_by_outputs(node: Any, stored: dict[str, Any]) -> bool:
    """Whether a node dequantizes a stored weight with a scale for all or for each output, and zero points of zero."""
    import onnx

    if node.op_type != "DequantizeLinear" or any(name not in stored for name in node.input):
        return False
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    zeros = node.input[2:3]
    return (axis == 0 or not stored[node.input[1]].dims) and not any(
        onnx.numpy_helper.to_array(stored[name]).any() for name in zeros
    )
