"""What ONNX Runtime's optimizer made of a model: which nodes are integer, and which compute in float after all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from fxopt.backends.onnx.runtime import open_session, session_options
from fxopt.support.scratch import scratch_folder

_INTEGER = (
    "QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize", "QAttention", "NhwcMaxPool", "MatMulNBits",
)  # fmt: skip
_CONTRACTIONS = ("Conv", "MatMul", "Gemm", "ConvTranspose", "FusedConv", "FusedMatMul", "FusedGemm")
_INTEGER_CONTRACTIONS = (
    "QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "ConvInteger", "QAttention", "MatMulNBits",
    "DynamicQuantizeMatMul",
)  # fmt: skip


def has_float16(path: Path) -> bool:
    """Whether anything in a model is stored in float16, or cast to it."""
    import onnx

    half, graph = onnx.TensorProto.FLOAT16, onnx.load(path, load_external_data=False).graph
    casts = (a.i for node in graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    inputs = (value.type.tensor_type.elem_type for value in graph.input)
    return half in {*casts, *inputs, *(tensor.data_type for tensor in graph.initializer)}


def kernel_facts(path: Path, origins: dict[str, str], level: str = "all") -> dict[str, Any]:
    """Facts about the graph of ``path`` as the runtime's optimizer leaves it at ``level``.

    ``float16``: whether the model has numbers in it, which decides what the runtime's optimizer may do.
    ``integer_nodes``: op types of the integer nodes, one entry a node. ``integer_contractions`` and
    ``float_contractions``: how many convolutions and matrix products compute in each. ``dequantized_at_run_time``: every
    convolution or matrix product that still gets its weight through a DequantizeLinear at each run, so that it is slower
    than float, with where it comes from. Raises BackendError where the runtime refuses the model.
    """
    import onnx

    with scratch_folder() as folder:
        float16 = has_float16(path)
        options = session_options(1, level, True)
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        options.add_session_config_entry("session.disable_prepacking", "1")  # which is for running it
        open_session(path, options, float16=float16)
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    stored = {value.name for value in graph.initializer}
    weights = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored}
    floats = [node for node in graph.node if node.op_type in _CONTRACTIONS]
    late = [node for node in floats if weights.intersection(node.input)]
    integer = [node.op_type for node in graph.node if node.op_type.startswith(_INTEGER)]
    return {
        "float16": float16,
        "integer_nodes": integer,
        "integer_contractions": sum(op.startswith(_INTEGER_CONTRACTIONS) for op in integer),
        "float_contractions": len(floats),
        "dequantized_at_run_time": [
            f"{origins.get(node.name, f'{node.op_type} {node.name}')}: its weight is dequantized at every run, "
            "as the runtime found no Q/DQ around all its inputs and its output"
            for node in late
        ],
        "nodes": dict(sorted(Counter(node.op_type for node in graph.node).items())),
    }
