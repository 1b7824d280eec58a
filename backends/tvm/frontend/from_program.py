"""A program as a Relax module, through torch's core ops; ops that fail are named with the user's line."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import fx
from torch.export.graph_signature import ConstantArgument

from fxopt.backends.tvm.frontend.provenance import PROVENANCE, name_for
from fxopt.backends.tvm.frontend.recurrent.layers import KINDS
from fxopt.backends.tvm.runtime import need_tvm
from fxopt.errors import BackendError
from fxopt.frontend.origins import origins_of
from fxopt.frontend.pt2 import export_program
from fxopt.ir.printer import node_text, source_line
from fxopt.ir.program import Program

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import BlockBuilder, ExportedProgramImporter, Expr, IRModule


def import_program(program: Program) -> IRModule:
    """The program as a Relax module whose ``main`` takes the tensor inputs and returns a tuple; weights are constants.

    Its variables are named after nodes, which the attribute ``PROVENANCE`` describes; see :mod:`provenance`.

    Raises BackendError where TVM's importer fails, with the node.
    """
    need_tvm()
    # with gradients, attention would decompose into the variant that saves values for backward; torch copies what it deprecates
    with torch.no_grad(), warnings.catch_warnings(action="ignore", category=FutureWarning):
        exported = _of_tensors(export_program(program).run_decompositions(_decompositions()))
    origins, mine = origins_of(exported, program), {node.name: node for node in program.graph.nodes}

    def describe(node: fx.Node) -> str:
        """The node of the program that a decomposed one comes from, as text; or that node itself."""
        if node.name in origins:
            return program.describe(mine[origins[node.name]])
        where = source_line(node)
        return node_text(node) + (f"        {where}" if where else "")

    importer = _importer_class()()
    importer.origins = origins
    unknown = [node for node in _calls(exported.graph) if _key(node) not in importer.convert_map]
    if unknown:
        lines = "\n".join(f"    {describe(node)}" for node in unknown[:20])
        raise BackendError(f"TVM's importer has no form of {len(unknown)} op(s):\n{lines}")
    try:
        module = importer.from_exported_program(exported, False, False, False, {})
    except _ConversionError as error:
        raise BackendError(f"TVM's importer cannot convert\n    {describe(error.node)}\n  {error.reason}") from error
    provenance = {origins.get(node.name, node.name): describe(node) for node in _calls(exported.graph)}
    module["main"] = module["main"].with_attr(PROVENANCE, provenance)
    return module


def _of_tensors(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Without the inputs whose values are part of the graph, such as flags, which TVM takes for tensors."""
    specs = exported.graph_signature.input_specs
    flags = {spec.arg.name for spec in specs if isinstance(spec.arg, ConstantArgument)}
    specs[:] = [spec for spec in specs if spec.arg.name not in flags]
    for node in list(exported.graph.nodes):
        if node.op == "placeholder" and node.name in flags:
            exported.graph.erase_node(node)
    return exported


def known_ops() -> frozenset[str]:
    """Names of the ops that the importer can convert, as it spells them: ``conv2d.default``."""
    need_tvm()
    return frozenset(_importer_class()().convert_map)


def _decompositions() -> dict[torch._ops.OperatorBase, Callable[..., object]]:
    """Torch's, but for recurrent layers, whose steps it would write out, and instance norms, which merge dims."""
    table = dict(torch.export.default_decompositions())
    for kind in KINDS:
        table.pop(getattr(torch.ops.aten, kind).input, None)
    table.pop(torch.ops.aten.instance_norm.default, None)
    return table


class _ConversionError(Exception):
    def __init__(self, node: fx.Node, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


@functools.cache
def _importer_class() -> type[ExportedProgramImporter]:
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    class Importer(ExportedProgramImporter):
        """TVM's importer, which also reports where it fails, names variables after the program's nodes, and knows Q/DQ ops."""

        node: fx.Node | None = None
        origins: Mapping[str, str] = MappingProxyType({})

        def create_convert_map(self) -> dict[str, Callable[[fx.Node], Expr]]:
            """TVM's conversions and ours."""
            from fxopt.backends.tvm.frontend.converters import conversions

            known = super().create_convert_map() | conversions(self)
            return {name: self._guarded(convert) for name, convert in known.items()}

        @property
        def block_builder(self) -> BlockBuilder | _Naming:
            """The builder of the module."""
            return self._builder

        @block_builder.setter
        def block_builder(self, builder: BlockBuilder) -> None:
            self._builder = _Naming(builder, self)

        def _guarded(self, convert: Callable[[fx.Node], Expr]) -> Callable[[fx.Node], Expr]:
            def call(node: fx.Node) -> Expr:
                self.node = node
                try:
                    return convert(node)
                except Exception as error:
                    first = (str(error).strip().splitlines() or [""])[0]
                    raise _ConversionError(node, f"{type(error).__name__}: {first}") from error

            return call

    return Importer


class _Naming:
    """A builder that names each variable after the node that is being converted."""

    def __init__(self, builder: BlockBuilder, importer: ExportedProgramImporter) -> None:
        self._builder, self._importer = builder, importer

    def __getattr__(self, name: str) -> object:
        return getattr(self._builder, name)

    def emit(self, expr: Expr, name_hint: str = "") -> Expr:
        node, origins = self._importer.node, self._importer.origins
        return self._builder.emit(expr, name_hint or (name_for(origins.get(node.name, node.name)) if node else ""))


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _key(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
