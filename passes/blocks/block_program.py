"""A region as a program of its own, and a program put in place of a region."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import fx

from fxopt.ir.builder import assemble
from fxopt.ir.dead_code import drop_unused, remove_dead
from fxopt.ir.op_table import Shape, arguments, family
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes, size_expressions
from fxopt.passes.blocks.block import Block


def block_program(
    program: Program, shape: Shape, source: fx.Node, nodes: Iterable[fx.Node], end: fx.Node
) -> Program | str:
    """A program of the region ``nodes`` with the input ``source`` and the output ``end``; the reason where there is none.

    Weights are copied and keep their names, sizes are read off the source, and what is computed from these alone is copied.
    """
    graph = fx.Graph()
    placeholder = graph.placeholder("x")
    placeholder.meta["val"] = source.meta["val"]
    example = torch.zeros(shape(source), dtype=source.meta["val"].dtype)
    made = assemble(torch.nn.Module(), graph, [example], [placeholder])
    made.ranges = dict(program.ranges)
    copying = _Copying(program, made, source, placeholder)
    inside = set(nodes)
    for node in program.graph.nodes:
        if node in inside and (reason := copying.copy(node, inside)):
            return reason
    made.graph.output_node().args = ((copying.new[end],),)
    made.module.recompile()
    derive_shapes(made)
    return made


class _Copying:
    """Nodes of a program copied into another, with whatever else they read than their source."""

    def __init__(self, program: Program, made: Program, source: fx.Node, placeholder: fx.Node) -> None:
        self.program, self.made, self.source = program, made, source
        self.new: dict[fx.Node, fx.Node] = {source: placeholder}
        self._tensors: dict[int, fx.Node] = {}
        self._output = made.graph.output_node()

    def copy(self, node: fx.Node, inside: set[fx.Node]) -> str | None:
        for operand in node.all_input_nodes:
            if operand not in self.new and (reason := self._beside(operand, node, inside)):
                return reason
        with self.made.graph.inserting_before(self._output):
            self.new[node] = self.made.graph.node_copy(node, self.new.__getitem__)
        return None

    def _beside(self, operand: fx.Node, reader: fx.Node, inside: set[fx.Node]) -> str | None:
        """Copy an operand from outside the region: a weight, a size, or what is computed from those."""
        tensor = self.program.tensor(operand)
        if tensor is not None:
            if id(tensor) not in self._tensors:
                learned = isinstance(tensor, torch.nn.Parameter)
                copied = tensor.detach().clone().requires_grad_(tensor.requires_grad)
                self._tensors[id(tensor)] = self.made.add_tensor(
                    str(operand.target), copied, self._output, learned=learned
                )
            self.new[operand] = self._tensors[id(tensor)]
            return None
        if operand in inside:
            return f"%{reader.name} reads %{operand.name}, which comes after it"
        if op_name(operand) == "aten.sym_size.int" and arguments(operand)["self"] not in self.new:
            return self._size(operand, reader)
        computed = operand.op == "call_function" and (operand.all_input_nodes or family(operand) == "create")
        if not computed or family(operand) == "random":
            return f"%{reader.name} reads %{operand.name} beside its input"
        return self.copy(operand, inside)

    def _size(self, node: fx.Node, reader: fx.Node) -> str | None:
        """Read a size of the program's input off the source, which must have it too."""
        wanted, sizes = size_expressions([node.meta["val"]])[0], size_expressions(self.source.meta["val"].shape)
        if wanted not in sizes:
            return f"%{reader.name} reads the size {wanted}, which its input does not have"
        with self.made.graph.inserting_before(self._output):
            self.new[node] = self.made.graph.call_function(
                torch.ops.aten.sym_size.int, (self.new[self.source], sizes.index(wanted))
            )
        return None


def put(program: Program, exchanged: Iterable[tuple[Block, Program]]) -> dict[str, fx.Node]:
    """Put programs in place of blocks that share no node, in the order of the graph; the old weights go.

    A program that returns its input leaves only the block's source. Shapes are not derived anew. Returns the node that now
    stands for each block's end, by the name that the end had.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    order = {name: i for i, name in enumerate(nodes)}
    ends: dict[str, fx.Node] = {}
    for block, made in sorted(exchanged, key=lambda pair: order[pair[0].end]):
        end, source = nodes[block.end], ends.get(block.source) or nodes[block.source]
        ends[block.end] = _replaced(program, end, source, made)
    program.graph.lint()
    return ends


def _replaced(program: Program, end: fx.Node, source: fx.Node, made: Program) -> fx.Node:
    """Let the readers of ``end`` read a program's output for ``source``."""
    (result,) = made.outputs()
    mark = program.graph.call_function(operator.getitem, (source, 0))  # the place, until the old weights are gone
    end.prepend(mark)
    end.replace_all_uses_with(mark)
    remove_dead(program)
    drop_unused(program.module, set(program.tensors()))
    new: dict[fx.Node, fx.Node] = {}
    for node in made.graph.nodes:
        if node.op == "placeholder":
            new[node] = source
        elif (tensor := made.tensor(node)) is not None:
            learned = isinstance(tensor, torch.nn.Parameter)
            new[node] = program.add_tensor(str(node.target), tensor, mark, learned=learned)
            program.kept_indices.pop(str(new[node].target), None)
        elif node.op == "call_function":
            with program.graph.inserting_before(mark):
                new[node] = program.graph.node_copy(node, new.__getitem__)
            new[node].meta.setdefault("stack_trace", end.meta.get("stack_trace"))
    mark.replace_all_uses_with(new[result])
    program.graph.erase_node(mark)
    return new[result]
