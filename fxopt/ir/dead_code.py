"""Dead code elimination, including dead attention, dropout, checks and writes into dead memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from torch import fx

from fxopt.ir.alias_analysis import alias_sets, written
from fxopt.ir.op_table import Trait, family, has
from fxopt.ir.program import Program


class LiveCode:
    """Which nodes an output or a side effect depends on.

    fx keeps dead attention and dropout, which might draw random numbers, and a check of a dtype keeps its operands alive.
    A write into memory that the graph itself allocates is live if something reads that memory.
    """

    def __init__(self, program: Program) -> None:
        self._sets = alias_sets(program.graph)
        outside = {self._sets[node] for node in program.graph.nodes if node.op in ("placeholder", "get_attr")}
        self._writers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in program.graph.nodes:
            for target in written(node):
                self._writers[self._sets[target]].append(node)
        inner = {node for root, nodes in self._writers.items() if root not in outside for node in nodes}
        self._roots = [node for node in program.graph.nodes if node not in inner and _has_effect(node)]

    def nodes(self, instead: Mapping[fx.Node, fx.Node] = MappingProxyType({})) -> set[fx.Node]:
        """The live nodes, where every reader of a key of ``instead`` is to read its value."""
        live: set[fx.Node] = set()
        todo = list(self._roots)
        while todo:
            node = todo.pop()
            while node in instead:
                node = instead[node]
            if node not in live:
                live.add(node)
                todo += [*node.all_input_nodes, *self._writers.get(self._sets[node], ())]
        return live


def remove_dead(program: Program) -> None:
    """Erase every node that no output and no side effect depends on, see :class:`LiveCode`."""
    live = LiveCode(program).nodes()
    for node in reversed(list(program.graph.nodes)):
        if node not in live and not (_checks_form(node) and live.issuperset(node.all_input_nodes)):
            program.graph.erase_node(node)


def _checks_form(node: fx.Node) -> bool:
    """Whether a node only asserts facts about its operand's type that are known statically."""
    return family(node) == "check" and has(node, Trait.READS_FORM_ONLY)


def _has_effect(node: fx.Node) -> bool:
    """Whether a node does more than compute its value: an input, an output, a write, a draw of random numbers."""
    return not _checks_form(node) and node.is_impure(impure_random=family(node) in (None, "random"))


def drop_unused(module: fx.GraphModule, tensors: set[str]) -> None:
    """Delete the weights that are not among ``tensors``, by name, and the modules that the graph does not use.

    Regions and branches of ``torch.cond`` keep theirs: they are graphs of their own, whose constants this graph does not read.
    """
    regions = _regions(module, tensors)
    for name, owner in list(module.named_modules()):
        if f"{name}.".startswith(regions):
            continue
        for store in (owner._parameters, owner._buffers):
            for leaf in list(store):
                if (f"{name}.{leaf}" if name else leaf) not in tensors:
                    del store[leaf]
    drop_unused_modules(module, tensors)


def drop_unused_modules(module: fx.GraphModule, tensors: set[str]) -> None:
    """Delete the modules that hold nothing the graph uses; ``tensors`` are the names of the weights it reads."""
    read, regions = _read(module), _regions(module, tensors)
    for name, _ in list(module.named_modules()):
        used = f"{name}.".startswith(regions) or any(target.startswith(f"{name}.") for target in read)
        if name and not used:
            module.delete_submodule(name)


def _read(module: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module")}


def _regions(module: fx.GraphModule, tensors: set[str]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in _read(module) - tensors)
