"""Pools in the form for which the runtime has right integer kernels."""

from __future__ import annotations

from typing import Any


def rewrite_pools(model: Any) -> None:
    """Rewrite means and average pools of an ONNX model in place; shapes are read from its value infos."""
    import onnx

    known = [*model.graph.input, *model.graph.value_info]
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in known}
    axes = {i.name: sorted(onnx.numpy_helper.to_array(i).ravel().tolist()) for i in model.graph.initializer
            if i.data_type == onnx.TensorProto.INT64}  # fmt: skip
    for node in model.graph.node:
        shape = shapes.get(node.input[0], []) if node.input else []
        if node.op_type == "ReduceMean" and len(shape) == 4 and len(node.input) == 2:
            _use_global_pool(node, axes.get(node.input[1]))
        elif node.op_type == "AveragePool":
            _write_out_ceil(node, shape)


def _use_global_pool(node: Any, axes: list[int] | None) -> None:
    """Write a mean over height and width as GlobalAveragePool, which has an integer kernel; ReduceMean has none."""
    if _attributes(node).get("keepdims", 1) and axes in ([2, 3], [-2, -1]):
        node.op_type = "GlobalAveragePool"
        del node.input[1:]
        node.ClearField("attribute")


def _write_out_ceil(node: Any, shape: list[int]) -> None:
    """Write ceil_mode as padding at the end that is not counted.

    The runtime's integer kernel counts cells beyond the border as zeros where ceil_mode lets a window reach over it. Left
    as it is where sizes are dynamic or there is other padding that is counted.
    """
    import onnx

    given = _attributes(node)
    kernel = list(given["kernel_shape"])
    sizes, rank = shape[2:], len(kernel)
    pads, strides = list(given.get("pads", [0] * 2 * rank)), list(given.get("strides", [1] * rank))
    counted = given.get("count_include_pad", 0) and any(pads)
    if not given.get("ceil_mode", 0) or len(sizes) != rank or not all(sizes) or "dilations" in given:
        return
    beyond = []
    for d, size in enumerate(sizes):
        space = size + pads[d] + pads[rank + d] - kernel[d]
        windows = -(-space // strides[d]) + 1
        if (windows - 1) * strides[d] >= size + pads[d]:
            windows -= 1  # no window may begin beyond the input
        beyond.append(max(0, (windows - 1) * strides[d] - space))
    if counted and any(beyond):
        return
    pads[rank:] = [pad + more for pad, more in zip(pads[rank:], beyond, strict=True)]
    changed = {"pads": pads, "ceil_mode": 0, "count_include_pad": int(bool(counted))}
    kept = [a for a in node.attribute if a.name not in changed]
    node.ClearField("attribute")
    node.attribute.extend([*kept, *(onnx.helper.make_attribute(k, v) for k, v in changed.items())])


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
