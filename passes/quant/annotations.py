"""Placement by a quantizer of the user's: what PT2E annotations on a copy of the graph ask for."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from fxopt.errors import UsageError
from fxopt.ir.op_table import arguments, family
from fxopt.ir.program import Program
from fxopt.passes.quant.annotation_sources import name_sources
from fxopt.passes.quant.annotation_specs import Edge, asked_code, asked_weight, shared_with
from fxopt.passes.quant.observers import Affine, Format
from fxopt.passes.quant.placement import LEFT, Placement, declined, same_numbers
from fxopt.support.import_user_code import find_function

_KEY = "quantization_annotation"
_HOW = (
    "  name a function that returns a configured one, such as\n"
    "  def mine(): return X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())"
)


@dataclass
class _Asked:
    """What is asked of each edge (a value and its reader) and each result (a value and None), by nodes of the program."""

    specs: dict[Edge, Any] = field(default_factory=dict)
    weights: dict[fx.Node, Any] = field(default_factory=dict)


def place_by_annotations(
    program: Program, quantizer: str, keep_float: tuple[str, ...], left: Collection[str] = frozenset()
) -> Placement:
    """Decide what is quantized as a PT2E quantizer annotates it; nothing is changed.

    ``quantizer`` names a function that returns the quantizer: ``module:function`` or ``file.py:function``. The other two
    are as in :func:`place`. What it asks for and fxopt cannot do is in the notes. Raises UsageError where the quantizer
    cannot be imported, fails, or annotates nothing.
    """
    result = Placement()
    asked = _read(program, _annotated(program, quantizer), result)
    if not asked.specs and not asked.weights:
        raise UsageError(f"quantizer={quantizer!r} annotated nothing in this program\n{_HOW}")
    refused = set(_choose_layers(program, asked, keep_float, left, result))
    for (value, reader), spec in asked.specs.items():
        if reader in refused or reader in result.declined:
            continue
        form = _code(asked, spec)
        if isinstance(form, str):
            result.notes.append((reader or value, f"annotated by the quantizer, but left in float: {form}"))
            continue
        _take(result, value, reader, form)
    _share(program, asked, result)
    return result


def _annotated(program: Program, quantizer: str) -> fx.Graph:
    """A copy of the graph with the quantizer's annotations."""
    who = f"quantizer={quantizer!r}"
    try:
        made = find_function(quantizer, who, "Quantizer")()
        model = fx.GraphModule(program.module, copy.deepcopy(program.graph))
        name_sources(model.graph)
        model = made.transform_for_annotation(model)
        model = made.annotate(model) or model
        made.validate(model)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{who}: {type(error).__name__}: {error}\n{_HOW}") from error
    return model.graph


def _read(program: Program, graph: fx.Graph, result: Placement) -> _Asked:
    here = {node.name: node for node in program.graph.nodes}
    asked = _Asked()
    for twin in graph.nodes:
        note = twin.meta.get(_KEY)
        if note is None:
            continue
        node = here.get(twin.name)
        wanted = {source: spec for source, spec in note.input_qspec_map.items() if spec is not None}
        if node is None or node.target != twin.target or any(source.name not in here for source in wanted):
            if wanted or note.output_qspec is not None:
                note = f"the quantizer annotates {twin.name}, a node of its own making"
                result.notes.append((node or program.inputs()[0], note))
            continue
        call = arguments(node) if family(node) == "contraction" else {}
        for source, spec in wanted.items():
            value = here[source.name]
            if value is call.get("weight"):
                asked.weights[node] = spec
            elif value is not call.get("bias"):
                asked.specs[value, node] = _here(spec, here)
        if note.output_qspec is not None:
            asked.specs[node, None] = _here(note.output_qspec, here)
    return asked


def _choose_layers(
    program: Program, asked: _Asked, keep_float: tuple[str, ...], left: Collection[str], result: Placement
) -> Iterator[fx.Node]:
    """Sort contractions with a stored weight into layers and declined ones; return those whose inputs stay in float."""
    for node in program.graph.nodes:
        if family(node) != "contraction":
            continue
        annotated = any(reader is node for _, reader in asked.specs)
        if "weight" not in arguments(node) and annotated:
            continue  # a product of two values has no weight, only its operands are quantized
        form = _form_of(program, asked, node, annotated, keep_float) if node.name not in left else LEFT
        if isinstance(form, str):
            result.declined[node] = form
            yield node
            continue
        result.layers.append(node)
        if form:
            result.per_tensor.add(node)


def _form_of(
    program: Program, asked: _Asked, node: fx.Node, annotated: bool, keep_float: tuple[str, ...]
) -> bool | str:
    """Whether a layer's weight has one scale, or the reason why the layer stays in float."""
    if node not in asked.weights:
        return "the quantizer does not annotate its weight" if annotated else "the quantizer does not annotate it"
    reason = declined(program, node, keep_float)
    if reason:
        return reason
    source = arguments(node)["input"]
    if (source, node) not in asked.specs:
        return "the quantizer does not annotate its input; weights alone are quantized by quantize_weights"
    code = _code(asked, asked.specs[source, node])
    return code if isinstance(code, str) else asked_weight(asked.weights[node])


def _code(asked: _Asked, spec: Any) -> Format | Affine | str:
    seen = 0
    while (edge := shared_with(spec)) is not None:
        seen += 1
        if edge not in asked.specs or seen > len(asked.specs):
            return "it shares a scale with something that is not annotated"
        spec = asked.specs[edge]
    return asked_code(spec)


def _take(result: Placement, value: fx.Node, reader: fx.Node | None, code: Format | Affine) -> None:
    form = code.form if isinstance(code, Affine) else code
    if result.forms.get(value, form) != form:
        note = f"annotated with two formats; it has {result.forms[value]} for all that read it"
        result.notes.append((value, note))
    result.values.setdefault(value, value)
    result.forms.setdefault(value, form)
    if isinstance(code, Affine):
        result.fixed[value] = code
    if reader is None:
        result.whole.add(value)
    else:
        result.edges.add((value, reader))


def _share(program: Program, asked: _Asked, result: Placement) -> None:
    """Give values that are to share a scale the first one's, and let its observer see them all."""
    groups: dict[fx.Node, set[fx.Node]] = {}
    for (value, _), spec in asked.specs.items():
        edge = shared_with(spec)
        if edge is None or value not in result.values or edge[0] not in result.values or edge[0] is value:
            continue
        both = groups.get(value, {value}) | groups.get(edge[0], {edge[0]})
        groups.update(dict.fromkeys(both, both))
    for node in program.graph.nodes:
        for other in groups.pop(node, ()):
            groups.pop(other, None)
            result.values[other] = node
            result.forms[other] = result.forms[node]
            if not (same_numbers(other) and other.args[0] is node):
                result.pooled.add(other)


def _here(spec: Any, here: dict[str, fx.Node]) -> Any:
    """The spec, with the nodes of the program in it where it shares a scale with others."""
    edge = getattr(spec, "edge_or_node", None)
    if edge is None:
        return spec
    twin = copy.copy(spec)
    nodes = tuple(
        here.get(node.name) for node in (edge if isinstance(edge, tuple) else (edge, None)) if node is not None
    )
    object.__setattr__(twin, "edge_or_node", nodes)
    return twin
