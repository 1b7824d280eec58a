"""Which nodes XNNPACK took, and why each of the others is left to ExecuTorch's own kernels."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.backend.kernel_time import NODES
from fxopt.backends.executorch.int8_form import Stored
from fxopt.frontend.origins import origins_of
from fxopt.ir.printer import source_line
from fxopt.ir.program import Program

_LOGGERS = tuple(
    f"executorch.backends.xnnpack.partition.config.{name}"
    for name in ("xnnpack_config", "gemm_configs", "generic_node_configs", "node_configs", "quant_affine_configs")
)
_CONTRACTIONS = ("convolution", "linear", "mm", "addmm", "bmm")
_NOTE = "fxopt_node"
"""The key of a node's own notes, which every pass copies."""
_NO_KERNEL = "XNNPACK has no kernel for it"


class Refusals(logging.Handler):
    """While entered, collects the reasons of XNNPACK's partitioner, by node name; it says them to its loggers alone."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.reasons: dict[str, str] = {}
        self._before: list[tuple[logging.Logger, int, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a reason, which is an object of the partitioner's with the node."""
        node, reason = getattr(record.msg, "node", None), getattr(record.msg, "reason", None)
        if isinstance(node, fx.Node) and reason:
            self.reasons.setdefault(node.name, str(reason))

    def __enter__(self) -> Refusals:
        for logger in map(logging.getLogger, _LOGGERS):
            self._before.append((logger, logger.level, logger.propagate))
            logger.addHandler(self)
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
        return self

    def __exit__(self, *error: object) -> None:
        for logger, level, propagate in self._before:
            logger.removeHandler(self)
            logger.setLevel(level)
            logger.propagate = propagate


@dataclass(frozen=True)
class Portable:
    """A call of ``op`` that ExecuTorch's own kernels compute: the program's ``node`` as text, its line, and the reason."""

    op: str
    node: str
    source: str
    reason: str


@dataclass(frozen=True)
class Delegation:
    """``delegates`` are the parts that XNNPACK took, with the ops of ``delegated``; ``portable`` the other calls.

    ``integer`` and ``floats`` count convolutions and products; ``late`` names those whose stored codes became float.
    ``calls`` are the parts and the calls outside in order, of each its ops with the program's node, "" for none. ``arena`` is
    bytes planned for values between the parts, at the largest sizes.
    """

    delegates: int
    delegated: Counter[str]
    portable: list[Portable]
    integer: int
    floats: int
    late: list[str]
    calls: list[list[list[str]]]
    arena: int = 0

    def facts(self) -> dict[str, Any]:
        """For the report: counts, the calls outside with their reasons, and notes that say so."""
        inside, outside = self.delegated.total(), len(self.portable)
        notes = [f"XNNPACK computes {inside} of {inside + outside} ops, in {self.delegates} part(s)"]
        by_reason: dict[str, list[Portable]] = defaultdict(list)
        for call in self.portable:
            by_reason[call.reason].append(call)
        for reason, calls in by_reason.items():
            first = calls[0].node or calls[0].op
            which = first if len(calls) == 1 else f"{len(calls)} ops, the first of {first}"
            notes.append(f"in ExecuTorch's own kernels: {which}; {reason}")
        return {
            "delegates": self.delegates,
            "delegated_share": round(inside / max(1, inside + outside), 4),
            "delegated": dict(sorted(self.delegated.items())),
            "portable": [vars(call) for call in self.portable],
            "integer_contractions": self.integer,
            "float_contractions": self.floats,
            "dequantized_at_run_time": self.late,
            "arena_bytes": self.arena,
            NODES: self.calls,
            "notes": notes,
        }


def delegation(edge: Any, reasons: dict[str, str], program: Program, stored: list[Stored]) -> Delegation:
    """What ExecuTorch's manager tells of ``program``, partitioned; ``reasons`` are those of the partitioner."""
    here = {node.name: node for node in program.graph.nodes}
    whole = edge.exported_program().graph_module
    known = {
        name: part.original_module.graph for name, part in whole.named_children() if hasattr(part, "original_module")
    }
    parts = list(known.values())
    inside = [node for graph in parts for node in graph.nodes if _computes(node)]
    calls = []
    for node in whole.graph.nodes:
        if _computes(node):
            calls.append([[_op(node), _origin(node)]])
        elif _delegates(node):
            graph = known[str(node.args[0].target)]
            calls.append([[_op(n), _origin(n)] for n in graph.nodes if _computes(n)])
    outside = [node for node in whole.graph.nodes if _computes(node)]
    portable = []
    for node in outside:
        origin = here.get(_origin(node))
        portable.append(
            Portable(
                _op(node),
                "" if origin is None else program.describe(origin),
                source_line(node if origin is None else origin),
                reasons.get(node.name, _NO_KERNEL),
            )
        )
    layers = [node for node in (*inside, *outside) if _op(node).partition(".")[2] in _CONTRACTIONS]
    integer = sum("dequantize" in _op(operand) for node in layers for operand in node.all_input_nodes[1:2])
    late = [f"{program.describe(here[one.node])}: {one.reason}" for one in stored if one.node in here]
    return Delegation(len(parts), Counter(map(_op, inside)), portable, integer, len(layers) - integer, late, calls)


def note_origins(exported: torch.export.ExportedProgram, form: Program) -> None:
    """Note of each node which one of ``form`` it comes from, where ExecuTorch's passes keep it."""
    origins = origins_of(exported, form)
    for node in exported.graph.nodes:
        if node.name in origins:
            node.meta["custom"] = {**(node.meta.get("custom") or {}), _NOTE: origins[node.name]}


def _origin(node: fx.Node) -> str:
    """The program's node that a node of ExecuTorch's graph comes from; "" for none."""
    return str((node.meta.get("custom") or {}).get(_NOTE, ""))


def _computes(node: fx.Node) -> bool:
    """Whether a node is a call of an op, and neither of a delegate nor a pick of results or a size."""
    if node.op != "call_function" or node.target.__module__ in ("_operator", "builtins"):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    return "call_delegate" not in name and not name.startswith("sym_")


def _delegates(node: fx.Node) -> bool:
    return node.op == "call_function" and "call_delegate" in str(getattr(node.target, "__name__", ""))


def _op(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).removesuffix(".default")
