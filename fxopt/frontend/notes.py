"""Notes on unexpected contents of a captured graph."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from fxopt.ir.op_table import family, lookup, updates_statistics
from fxopt.ir.printer import op_name, source_line
from fxopt.ir.program import Program
from fxopt.numerics.random_draws import is_draw

_SHOWN = 5


def notes_of(program: Program) -> tuple[str, ...]:
    """Sentences about nodes with graphs of their own, those in training mode, and outputs of unknown size, with the user's lines.

    A graph that was exported in training mode is noted and not changed: an always active dropout may be meant, and a
    loaded file must be what was saved.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    inner = [node for node in calls if isinstance(node.target, torch._ops.HigherOrderOperator)]
    training = [node for node in calls if _trains(node)]
    notes = []
    regions = [node for node in inner if node.target is torch.ops.higher_order.wrap_with_autocast]
    opaque = [node for node in inner if node not in regions]
    if regions:
        notes.append(f"passes do not look into {_listed(regions)}, whose ops run in another dtype")
    if opaque:
        notes.append(f"passes do not look into {_listed(opaque)}, and what is in there is not counted")
    drawing = [node for node in calls if is_draw(node) and node not in training]
    if drawing:
        notes.append(f"draws random numbers: {_listed(drawing)}; proofs draw the same before and after a pass")
    if training:
        notes.append(
            f"in training mode: {_listed(training)}; if that is not meant, export the model after model.eval()"
        )
    if sized := [node for node in program.outputs() if isinstance(node, fx.Node) and _sized_by_values(node)]:
        notes.append(
            f"the values decide how large an output is: {_listed(sized)}; an approximate pass may change that, so cut the "
            "model before it, by until= or capture_split"
        )
    return tuple(notes)


def _sized_by_values(node: fx.Node) -> bool:
    value = node.meta.get("val")
    sizes = value.shape if isinstance(value, torch.Tensor) else ()
    return any(isinstance(size, torch.SymInt) and free_unbacked_symbols(size) for size in sizes)


def _trains(node: fx.Node) -> bool:
    row = lookup(node)
    if row is not None and row.family != "random" and family(node) == "random":
        return True
    return updates_statistics(node)


def _listed(nodes: list[fx.Node]) -> str:
    places = list(dict.fromkeys(_place(node) for node in nodes))
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(places[:_SHOWN]) + more


def _place(node: fx.Node) -> str:
    path, _ = next(reversed(node.meta.get("nn_module_stack", {"": ("", None)}).values()))
    where = source_line(node) or (f"in {path.removeprefix('L__self__.')}" if path else "")
    return f"{op_name(node)} ({where})" if where else op_name(node)
