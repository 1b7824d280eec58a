"""A program as plain data and tensors, and back: node for node with its names, order, shapes and source lines.

It includes what the text form leaves out: tuples as opposed to lists, strides, which tensors are parameters, tied weights,
structures of inputs and outputs. Reading executes nothing: ops are looked up by name, shapes derived anew. The history is
left out: equal programs are equal whatever made them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any

import torch
from torch import fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fxopt.ir.lazy_module import LazyModule
from fxopt.ir.node_values import Unwritable, read_value, write_value
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes, named_sizes

_TRANSIENT = frozenset({"val", "tensor_meta", "from_node", "unbacked_bindings"})
"""Facts about nodes that are derived anew, or that name objects of one process."""


def write_state(program: Program) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Plain values as JSON holds them, and tensors by name. Raises Unwritable for a program that would not round-trip."""
    tensors: dict[str, torch.Tensor] = {}
    module = program.module
    state = {
        "nodes": [_write_node(node, tensors) for node in program.graph.nodes],
        "modules": [_write_module(path, owner, tensors) for path, owner in module.named_modules(remove_duplicate=False)],
        "codegen": _write_codegen(program),
        "inputs": [_spec_text(pytree.tree_structure((program.args, program.kwargs))),
                   [write_value(leaf, tensors) for leaf in program.example_leaves()]],
        "ranges": sorted((name, *bounds) for name, bounds in program.ranges.items()),
        "notes": list(program.notes),
        "kept": [[name, [[dim, write_value(kept, tensors)] for dim, kept in dims.items()]]
                 for name, dims in program.kept_indices.items()],
    }  # fmt: skip
    storages = {t.untyped_storage().data_ptr() for t in tensors.values() if t.numel()}
    if len(storages) != sum(bool(t.numel()) for t in tensors.values()):
        raise Unwritable("tensors that share memory")
    return state, tensors


def state_digest(state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over all of it: every value, type, shape and stride, and every byte."""
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"\n{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def program_digest(program: Program) -> str | None:
    """The digest of a program's state; None for a program that cannot be written."""
    try:
        return state_digest(*write_state(program))
    except Unwritable:
        return None


def read_state(state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Program:
    """The program of a state. Raises Unwritable for ops that this torch does not have, PassError where shapes do not fit."""
    root = torch.nn.Module()
    known: dict[str, torch.Tensor] = {}
    for part in state["modules"]:
        _add_module(root, part, tensors, known)
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for facts in state["nodes"]:
        nodes[facts["name"]] = _read_node(graph, facts, nodes, tensors)
    graph.set_codegen(_read_codegen(state["codegen"]))
    module = LazyModule(root, graph, class_name="Program")
    # a GraphModule takes over the tensors that its graph reads, in the order of the graph
    module._modules, module._parameters, module._buffers = root._modules, root._parameters, root._buffers
    module._non_persistent_buffers_set, module.training = root._non_persistent_buffers_set, root.training
    structure, leaves = state["inputs"]
    args, kwargs = pytree.tree_unflatten([read_value(v, {}, tensors) for v in leaves], pytree.treespec_loads(structure))
    ranges = {name: (low, high) for name, low, high in state["ranges"]}
    program = Program(module, args, kwargs, ranges=ranges, notes=tuple(state["notes"]))
    program.kept_indices = {
        name: {dim: read_value(kept, {}, tensors) for dim, kept in dims} for name, dims in state["kept"]
    }
    sizes = [facts["size"] for facts in state["nodes"] if facts["op"] == "placeholder"]
    for node, value in zip(program.inputs(), named_sizes(sizes, program.ranges), strict=True):
        node.meta["val"] = value
    derive_shapes(program)
    return program


def _write_node(node: fx.Node, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    if node.op not in ("placeholder", "get_attr", "call_function", "output"):
        raise Unwritable(f"a node of the kind {node.op}")
    meta = {k: write_value(v, tensors, who=f"{node.name}.{k}") for k, v in node.meta.items() if k not in _TRANSIENT}
    target = write_value(node.target, tensors) if node.op == "call_function" else str(node.target)
    args = write_value(tuple(node.args), tensors), write_value(dict(node.kwargs), tensors)
    return {"name": node.name, "op": node.op, "target": target, "args": args, "meta": meta,
            "size": _write_size(node.meta.get("val"))}  # fmt: skip


def _write_size(value: Any) -> Any:
    """A fake value as JSON: dtype, sizes and strides as text, and the hints of symbols."""
    if isinstance(value, torch.Tensor):
        sizes = [*value.shape, *value.stride()]
        hints = {str(s): int(n.node.shape_env.backed_var_to_val[s]) for n in sizes if isinstance(n, torch.SymInt)
                 for s in n.node.expr.free_symbols if s in n.node.shape_env.backed_var_to_val}  # fmt: skip
        return {"dtype": str(value.dtype), "sizes": [str(s) for s in value.shape],
                "strides": [str(s) for s in value.stride()], "hints": hints}  # fmt: skip
    if isinstance(value, (list, tuple)):
        return [_write_size(v) for v in value]
    return None if value is None else str(value)


def _read_node(
    graph: fx.Graph, facts: dict[str, Any], nodes: dict[str, fx.Node], tensors: dict[str, torch.Tensor]
) -> fx.Node:
    target = facts["target"] if facts["op"] != "call_function" else read_value(facts["target"], nodes, tensors)
    args, kwargs = (read_value(part, nodes, tensors) for part in facts["args"])
    node = graph.create_node(facts["op"], target, args, kwargs, facts["name"])
    node.meta = {key: read_value(value, nodes, tensors) for key, value in facts["meta"].items()}
    return node


def _write_module(path: str, owner: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    parameters = [[n, t is not None and write_value(t, tensors), t is not None and t.requires_grad]
                  for n, t in owner._parameters.items()]  # fmt: skip
    buffers = [[n, t is not None and write_value(t, tensors), n not in owner._non_persistent_buffers_set]
               for n, t in owner._buffers.items()]  # fmt: skip
    return {"path": path, "parameters": parameters, "buffers": buffers, "training": owner.training}  # fmt: skip


def _add_module(
    root: torch.nn.Module, part: dict[str, Any], tensors: dict[str, torch.Tensor], known: dict[str, torch.Tensor]
) -> None:
    owner: torch.nn.Module = root
    for name in filter(None, part["path"].split(".")):
        if name not in owner._modules:
            owner.add_module(name, torch.nn.Module())
        owner = getattr(owner, name)
    owner.training = part["training"]
    for name, value, grad in part["parameters"]:
        if value and value[1] not in known:
            known[value[1]] = torch.nn.Parameter(read_value(value, {}, tensors), requires_grad=grad)
        owner.register_parameter(name, known[value[1]] if value else None)  # type: ignore[arg-type]
    for name, value, persistent in part["buffers"]:
        if value and value[1] not in known:
            known[value[1]] = read_value(value, {}, tensors)
        owner.register_buffer(name, known[value[1]] if value else None, persistent=persistent)


def _write_codegen(program: Program) -> Any:
    info = getattr(program.graph._codegen, "pytree_info", None)
    if info is None:
        return None
    return [
        list(info.orig_args),
        _spec_text(info.in_spec),
        None if info.out_spec is None else _spec_text(info.out_spec),
    ]


def _read_codegen(facts: Any) -> Any:
    if facts is None:
        return fx.graph.CodeGen()
    names, inputs, outputs = facts
    out_spec: Any = pytree.treespec_loads(outputs) if outputs is not None else None
    return _PyTreeCodeGen(_PyTreeInfo(names, pytree.treespec_loads(inputs), out_spec))


def _spec_text(spec: pytree.TreeSpec) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytree.treespec_dumps(spec)
    except (NotImplementedError, TypeError) as error:
        raise Unwritable(str(error)) from error
