"""The layers of one weight as a program of their own, whole or as a chain: to be timed."""

from __future__ import annotations

import dataclasses

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.builder import assemble
from fxopt.ir.op_table import Shape
from fxopt.ir.program import Program, fake_like
from fxopt.ir.shape_inference import concrete_shapes, derive_shapes, fake_mode
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.step import tidy
from fxopt.passes.common.weight_modes import Core, SplitWeight
from fxopt.passes.lowrank.chain import Chain
from fxopt.passes.lowrank.emit_chain import emit_chain
from fxopt.passes.lowrank.find_weights import find_weights


def shapes_of_one(program: Program) -> Shape:
    """Shapes of all values for one example, where the batch is dynamic; otherwise for the example inputs."""
    batch = next((symbol for symbol, name in program.dims().items() if name == "batch"), None)
    leaves, spec = pytree.tree_flatten((program.args, program.kwargs))
    for i, node in enumerate(program.inputs()):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dim() and str(value.shape[0]) == batch:
            leaves[i] = leaves[i][:1]
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return concrete_shapes(dataclasses.replace(program, args=args, kwargs=kwargs))


def layer_alone(program: Program, weight: SplitWeight, shape: Shape) -> Program | str:
    """A program of the layers that read a weight, each with inputs of its own; or why there is none.

    What is not stored becomes an input of a fixed shape.
    """
    root, graph = torch.nn.Module(), fx.Graph()
    mode = fake_mode(assemble(root, fx.Graph(), (), ()))
    inputs: list[torch.Tensor] = []
    outputs, stored = [], dict[int, fx.Node]()

    def operand(node: fx.Node) -> fx.Node:
        tensor = program.tensor(node)
        if tensor is not None and id(tensor) in stored:
            return stored[id(tensor)]
        if tensor is not None:
            name = f"w{len(stored)}"
            root.register_parameter(name, torch.nn.Parameter(tensor.detach().clone()))
            stored[id(tensor)] = graph.get_attr(name)
            return stored[id(tensor)]
        inputs.append(torch.zeros(shape(node), dtype=node.meta["val"].dtype))
        new = graph.placeholder(f"x{len(inputs)}")
        new.meta["val"] = fake_like(mode, inputs[-1])
        return new

    for reader in weight.readers:
        if not all(isinstance(node.meta.get("val"), torch.Tensor) for node in reader.all_input_nodes):
            return "it reads a size that is computed, so it cannot be timed alone"
        operands = {node: operand(node) for node in reader.all_input_nodes}
        outputs.append(graph.node_copy(reader, operands.__getitem__))
    alone = assemble(root, _inputs_first(graph), inputs, outputs)
    derive_shapes(alone)
    return alone


def split(program: Program, chains: dict[str, Chain]) -> Program:
    """A copy in which the weights of these names are chains of such ranks, with random values."""
    twin = shared_copy(program)
    generator = torch.Generator().manual_seed(0)
    for weight in find_weights(twin):
        chain = chains.get(weight.names[0])
        if chain is None or not chain.cuts:
            continue
        cores = []
        for piece in chain.pieces(weight):
            kernel = [weight.kernel[d] for d in piece.dims]
            size = (piece.groups, piece.ins, *kernel, piece.outs)
            cores.append(Core(piece, torch.randn(size, generator=generator, dtype=torch.float64) / 16))
        emit_chain(twin, weight, cores)
    tidy(twin)
    derive_shapes(twin)
    return twin


def _inputs_first(graph: fx.Graph) -> fx.Graph:
    """A graph with its placeholders before everything else, in their order."""
    first = next(iter(graph.nodes))
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        first.prepend(node)
    return graph
