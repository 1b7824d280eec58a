"""A program as an ONNX model: exported through torch, checked, and the same bytes each time."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fxopt.backends.onnx.attention_kernels import use_attention_kernels
from fxopt.backends.onnx.block_weights import use_block_kernels
from fxopt.backends.onnx.dynamic_kernels import use_dynamic_kernels
from fxopt.backends.onnx.file import all_graphs, drop_unused, save, store_beside
from fxopt.backends.onnx.norms import use_norm_kernels
from fxopt.backends.onnx.pools import rewrite_pools
from fxopt.backends.onnx.quiet import quiet
from fxopt.backends.onnx.recurrent_kernels import use_recurrent_kernels
from fxopt.backends.onnx.rotary_kernels import use_rotary_kernels
from fxopt.backends.onnx.translate import translated
from fxopt.backends.onnx.unpacked_weights import unpack_weights
from fxopt.backends.onnx.values import name_values
from fxopt.backends.onnx.weights import store_unsigned
from fxopt.errors import BackendError, FxoptError
from fxopt.ir.printer import source_line
from fxopt.ir.program import Program


def export(
    program: Program,
    opset: int,
    path: Path,
    *,
    unsigned_weights: bool = False,
    quantized_lstm: bool = False,
    runtime_operators: bool = False,
) -> tuple[dict[str, str], dict[str, str]]:
    """Write ``program`` as ONNX; return the source of every ONNX node, ``{node name: op and user's line}``, and the node of
    the program that it, or a value of the model, belongs to, ``{name: node's name}``, "" for none.

    Inputs, outputs and quantized values keep their names and dynamic dims. With ``unsigned_weights`` those of 8 bits are
    stored as uint8; ``quantized_lstm`` takes an op for LSTMs with int8 weights that ONNX Runtime alone has, and
    ``runtime_operators`` its ops for attention and rotary embeddings, and the form in which it finds RMS norms.
    Raises BackendError where the exporter or the ONNX checker fails, with the node.
    """
    import onnx
    from torch.onnx._internal.exporter import _ir_passes as ir_passes

    inputs = [node.name for node in program.inputs() if isinstance(node.meta.get("val"), torch.Tensor)]
    prefix = "output"
    while any(node.name.startswith(f"{prefix}_") for node in program.graph.nodes):
        prefix = f"_{prefix}"
    outputs = [f"{prefix}_{i}" for i, out in enumerate(program.outputs()) if isinstance(out, fx.Node)]
    try:
        # with gradients, attention under a learned mask would be taken apart into other strides than it was exported with
        with quiet(), torch.no_grad():
            made, nodes_of = translated(_in_kernels(program, quantized_lstm, runtime_operators), opset)
            ir_passes.rename_inputs(made.model, inputs)
            ir_passes.rename_outputs(made.model, outputs)
    except FxoptError:
        raise
    except Exception as error:
        raise BackendError(f"the ONNX exporter failed: {_reason(error)}") from error
    if not unsigned_weights:  # which are made of the others
        store_beside(made.model, path)
    model = made.model_proto
    origins = {node.name: _origin(node) for node in model.graph.node}
    nodes = _nodes(model, nodes_of)
    name_values(model, program)
    rewrite_pools(model)
    unpack_weights(model)
    if unsigned_weights:
        store_unsigned(model)
    drop_unused(model)
    _strip(model, program)
    save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise BackendError(f"ONNX's checker refuses the model: {_reason(error)}") from error
    return origins, nodes


def _nodes(model: Any, of_export: dict[str, str]) -> dict[str, str]:
    """The program's nodes by the names of ONNX nodes and of the values that they give; "" for what comes from none."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        name = of_export.get((ast.literal_eval(scopes) or [""])[-1], "")
        found |= {key: name for key in (node.name, *node.output) if key}
    return found


def _in_kernels(program: Program, quantized_lstm: bool, runtime_operators: bool) -> Program:
    program = use_recurrent_kernels(program, quantized_lstm=quantized_lstm)
    if runtime_operators:
        program = use_attention_kernels(use_rotary_kernels(use_norm_kernels(program)))
    return use_dynamic_kernels(use_block_kernels(program))


def _strip(model: Any, program: Program) -> None:
    """Drop traces, which hold paths and are larger than the code, and give dynamic dims their names."""
    dims = dict(zip(_symbols(model), program.dims().values(), strict=False))
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.graph.doc_string = model.doc_string = ""
    for graph in all_graphs(model.graph):
        for node in graph.node:
            node.ClearField("metadata_props")
            node.doc_string = ""
    for initializer in model.graph.initializer:
        initializer.ClearField("metadata_props")
    for value in [*model.graph.input, *model.graph.output]:
        value.ClearField("metadata_props")
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in dims:
                dim.dim_param = dims[dim.dim_param]


def _symbols(model: Any) -> list[str]:
    dims = [d.dim_param for value in model.graph.input for d in value.type.tensor_type.shape.dim if d.dim_param]
    return list(dict.fromkeys(dims))


def _origin(node: Any) -> str:
    facts = {p.key: p.value for p in node.metadata_props}
    trace = fx.Graph().call_function(torch.relu)  # any node: only its trace is read
    trace.meta["stack_trace"] = facts.get("pkg.torch.onnx.stack_trace", "")
    return f"{node.op_type} {node.name} {source_line(trace)}".strip()


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
