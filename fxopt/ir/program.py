"""A Program: a captured model as an fx graph of ATen ops, with example inputs, dynamic dims and history."""

from __future__ import annotations

import copy
import hashlib
import html
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from fxopt.errors import PassError, UsageError
from fxopt.ir.analyses import Analyses
from fxopt.ir.input_check import misfit
from fxopt.ir.printer import graph_text, node_text, op_name, source_line, type_text
from fxopt.ir.transfer import CPU, put, take
from fxopt.ir.widened import Widened


@dataclass(frozen=True)
class Skip:
    """A node that a pass left alone, and why."""

    node: str
    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" + (f"   ({self.source})" if self.source else "")


@dataclass(frozen=True)
class Choice:
    """A value that a pass chose itself, where its options leave it to the target, the data or a measurement."""

    what: str
    value: bool | int | float | str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value}, {self.why}"


@dataclass(frozen=True)
class Measurement:
    """A measurement by a pass: of which part, which figure, its value and unit, and the ``predicted`` value if any."""

    of: str
    figure: str
    value: float
    unit: str = ""
    predicted: float | None = None

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        said = "" if self.predicted is None else f", predicted {self.predicted:.4g}{unit}"
        return f"{self.of}: {self.figure} {self.value:.4g}{unit}{said}"


_LINES = 120
"""Lines of a graph that ``repr`` shows."""


@dataclass(eq=False, repr=False)
class Program:
    """A captured model.

    ``module`` is an fx.GraphModule of ATen calls. Weights are ``get_attr`` nodes with the model's own names; every
    node has a fake tensor in ``meta["val"]`` and, where known, the user's line in ``meta["stack_trace"]``.
    ``args`` and ``kwargs`` are example inputs (any pytree); ``ranges`` gives ``(min, max)`` of every dynamic size.
    Passes edit the module in place; the pipeline hands them a copy.

    Programs are equal, and hash alike, where their :meth:`fingerprint` is the same. An edit in place changes both, as of a
    list: a program that is a key of a dict or in a set must stay as it is, or be a :meth:`copy`.
    """

    module: fx.GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skips: list[Skip] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    claims: dict[str, tuple[str, dict[int, torch.Tensor]]] = field(default_factory=dict)
    """The value map of a pass, by node name: the original name and the kept indices by dim (``pass_manager/value_map``)."""
    kept_indices: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    """By the name of a weight and dim, which of its indices are kept, of those at the start of the pipeline or when it was
    added."""
    device: torch.device = CPU
    """Where the weights are, and the graph computes, while it is placed there: see :mod:`fxopt.ir.placement`."""
    analyses: Analyses = field(default_factory=Analyses)
    """What analyses found in the graph: see :mod:`fxopt.ir.analyses`."""

    @property
    def graph(self) -> fx.Graph:
        """The fx graph, to be edited in place."""
        return self.module.graph

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph without gradients; a graph that writes into an input does so in the caller's tensor.

        Tensors are on the CPU, those of the answer too, wherever the program computes (:mod:`fxopt.ir.placement`).

        Raises UsageError for inputs of another structure, dtype or fixed size, for a dynamic size outside its range,
        and for numbers that are not those of the example.
        """
        if self.in_spec is not None and (problem := misfit(self, args, kwargs)):
            raise UsageError(
                f"inputs do not fit the program: {problem}", way_out="capture the model with inputs like these"
            )
        with torch.no_grad():
            if self.device == CPU:
                return self.module(*args, **kwargs)
            args, kwargs = put((args, kwargs), self.device)
            return take(self.module(*args, **kwargs))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program):
            return NotImplemented
        return self is other or (self.text() == other.text() and self.fingerprint() == other.fingerprint())

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __repr__(self) -> str:
        lines = self.text().split("\n")
        if len(lines) > _LINES:
            left = f"… {len(lines) - _LINES} more lines; program.text() has all …"
            lines = [*lines[: _LINES // 2], left, *lines[-_LINES // 2 :]]
        return "\n".join([f"Program {self.signature()}", *lines])

    def _repr_html_(self) -> str:
        """The graph for a notebook: its interface, and the text of all nodes with the user's lines under it."""
        ops = sum(node.op == "call_function" for node in self.graph.nodes)
        weights = sum(tensor.numel() for tensor in self.tensors().values())
        title = f"Program {self.signature()}: {ops} ops, {weights:,} numbers in weights"
        text = html.escape(self.text(source=True))
        return f"<details><summary>{html.escape(title)}</summary><pre>{text}</pre></details>"

    @property
    def in_spec(self) -> pytree.TreeSpec | None:
        """Structure of ``(args, kwargs)``; None for a graph that was built by hand."""
        info = getattr(self.graph._codegen, "pytree_info", None)
        return info.in_spec if info else None

    @property
    def out_spec(self) -> pytree.TreeSpec | None:
        """Structure of the outputs; None for a graph that was built by hand."""
        info = getattr(self.graph._codegen, "pytree_info", None)
        return info.out_spec if info else None

    # ---- reading -----------------------------------------------------------------------------------------------

    def find(self, *ops: str) -> Iterator[fx.Node]:
        """Yield the nodes that call one of ``ops``, in order; ``aten.mean`` finds every overload of it.

        The nodes are listed before the first is yielded, and a node erased meanwhile is skipped.
        """
        wanted = set(ops)
        for node in list(self.graph.nodes):
            if node.op != "call_function" or node._erased:
                continue
            name = op_name(node)
            if name in wanted or name.rsplit(".", 1)[0] in wanted:
                yield node

    def inputs(self) -> list[fx.Node]:
        """The placeholder nodes in order, one for each tensor or number of the example inputs."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    def outputs(self) -> list[Any]:
        """What the graph returns, flat: nodes, numbers or None."""
        result = self.graph.output_node().args[0]
        return list(result) if isinstance(result, (tuple, list)) else [result]

    def example_leaves(self) -> list[Any]:
        """The example inputs, flat, in the order of :meth:`inputs`."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def dims(self) -> dict[str, str]:
        """Names of the dynamic sizes, by symbol: ``batch`` for a first dim, otherwise input and dim."""
        names: dict[str, str] = {}
        for node in self.inputs():
            value = node.meta.get("val")
            for dim, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
                symbol = str(size)
                if isinstance(size, torch.SymInt) and symbol.isidentifier() and symbol not in names:
                    taken = "batch" in names.values()
                    names[symbol] = f"{node.name}_{dim}" if dim or taken else "batch"
        return names

    def signature(self) -> str:
        """Inputs and outputs as text: ``(x: f32[batch,3,8,8]) -> (f32[batch,10])``."""
        dims = self.dims()
        inputs = ", ".join(f"{n.target}: {type_text(n.meta.get('val'), dims)}" for n in self.inputs())
        values = [out.meta.get("val") if isinstance(out, fx.Node) else out for out in self.outputs()]
        return f"({inputs}) -> ({', '.join(type_text(v, dims) for v in values)})"

    def text(self, *, source: bool = False) -> str:
        """The whole graph in the text form of :mod:`fxopt.ir.printer`."""
        return graph_text(self.graph, source=source, dims=self.dims())

    def to_dot(self) -> str:
        """The whole graph in the DOT language, see :mod:`fxopt.ir.dot`."""
        from fxopt.ir.dot import dot_text

        return dot_text(self.graph, self.dims())

    def describe(self, node: fx.Node) -> str:
        """One node as text with its source line, for messages."""
        return node_text(node, source=True, dims=self.dims())

    def fingerprint(self) -> str:
        """sha256 over the graph, the dynamic ranges and every weight; equal programs have equal fingerprints."""
        digest = hashlib.sha256(f"{self.text()}\n{sorted(self.ranges.items())}".encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    # ---- weights -----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor the graph reads, by attribute name; tied weights are one tensor under several names."""
        names = dict.fromkeys(str(n.target) for n in self.graph.nodes if n.op == "get_attr")
        found = {name: attribute(self.module, name) for name in names}
        return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}

    def tensor(self, node: Any) -> torch.Tensor | None:
        """The weight that a ``get_attr`` node reads; None for any other node or argument."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value = attribute(self.module, str(node.target))
        return value if isinstance(value, torch.Tensor) else None

    def add_tensor(self, name: str, tensor: torch.Tensor, before: fx.Node, *, learned: bool = True) -> fx.Node:
        """Add a weight under a free name like ``name`` and return a ``get_attr`` node for it, placed before a node.

        Floats become a parameter, or with ``learned=False`` a buffer, which is neither trained nor counted.
        A weight is never changed in place: other nodes may read it, and a copy of the program may share it.
        """
        free = name.replace("-", "_")
        count = 0
        while _has(self.module, free):
            count += 1
            free = f"{name}_{count}"
        self._store(free, tensor, learned)
        with self.graph.inserting_before(before):
            node = self.graph.get_attr(free)
        node.meta["val"] = self._fake(tensor)
        return node

    def swap_tensor(self, user: fx.Node, old: fx.Node, tensor: torch.Tensor) -> fx.Node:
        """Let ``user`` read ``tensor`` instead of the weight ``old``; return the ``get_attr`` node.

        The weight keeps its name if nothing else reads it; otherwise the other readers keep the old one, and the new one
        gets a similar name.
        """
        readers = {u for n in self.graph.nodes if n.op == "get_attr" and n.target == old.target for u in n.users}
        if readers == {user}:
            self._store(str(old.target), tensor, isinstance(self.tensor(old), torch.nn.Parameter))
            old.meta["val"] = self._fake(tensor)
            return old
        node = self.add_tensor(str(old.target), tensor, user)
        user.replace_input_with(old, node)
        return node

    def set_tensor(self, name: str, tensor: torch.Tensor) -> None:
        """As :meth:`set_tensors`, for one weight."""
        self.set_tensors({name: tensor})

    def set_tensors(self, changed: dict[str, torch.Tensor]) -> None:
        """Let every reader of a weight, and of the names tied to it, read another tensor; given by the weight's name.

        A parameter stays a parameter, with its ``requires_grad``; a buffer stays a buffer.
        """
        known = self.tensors()
        new: dict[int, torch.Tensor] = {}
        for name, tensor in changed.items():
            old, value = known[name], _own(tensor.detach())
            keeps = isinstance(old, torch.nn.Parameter)
            new[id(old)] = torch.nn.Parameter(value, requires_grad=old.requires_grad) if keeps else value
        for name, old in known.items():
            if id(old) in new:
                path, _, leaf = name.rpartition(".")
                owner = attribute(self.module, path) if path else self.module
                store: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
                store[leaf] = new[id(old)]
        mode = self._fake_mode()
        for node in self.graph.find_nodes(op="get_attr"):
            was = known.get(str(node.target))
            if was is not None and id(was) in new and new[id(was)].shape != was.shape:
                node.meta["val"] = fake_like(mode, new[id(was)]) if mode is not None else None

    def _store(self, name: str, tensor: torch.Tensor, learned: bool = True) -> None:
        path, _, leaf = name.rpartition(".")
        owner: torch.nn.Module = self.module
        for part in path.split(".") if path else ():
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner._parameters.pop(leaf, None)
        owner._buffers.pop(leaf, None)
        tensor = _own(tensor)
        if learned and tensor.is_floating_point():
            owner.register_parameter(leaf, torch.nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad))
        else:
            owner.register_buffer(leaf, tensor)

    def _fake_mode(self) -> FakeTensorMode | None:
        inputs = (node for node in self.graph.nodes if node.op == "placeholder")  # the first nodes of a graph
        return next((n.meta["val"].fake_mode for n in inputs if hasattr(n.meta.get("val"), "fake_mode")), None)

    def _fake(self, tensor: torch.Tensor) -> Any:
        mode = self._fake_mode()
        return fake_like(mode, tensor) if mode is not None else None

    # ---- editing -----------------------------------------------------------------------------------------------

    def replace(self, node: fx.Node, by: fx.Node) -> None:
        """Let every user of ``node`` read ``by`` instead, and erase ``node``."""
        if "stack_trace" in node.meta:
            by.meta.setdefault("stack_trace", node.meta["stack_trace"])
        node.replace_all_uses_with(by)
        self.graph.erase_node(node)

    def call(self, target: Any, *args: Any, like: fx.Node, **kwargs: Any) -> fx.Node:
        """Insert a call after ``like``, which gives it the source line, and return its node."""
        with self.graph.inserting_after(like):
            node = self.graph.call_function(target, args, kwargs)
        node.meta["stack_trace"] = like.meta.get("stack_trace")
        return node

    def skip(self, node: fx.Node, reason: str) -> None:
        """Report that a pass leaves ``node`` alone, and why."""
        self.skips.append(Skip(node_text(node, dims=self.dims()), source_line(node), reason))

    def chose(self, what: str, value: bool | int | float | str, why: str) -> None:
        """Report a value that a pass chose where its options leave it open, and why: ``chose("multiple", 16, "measured …")``.

        ``what`` is the option, or a noun, that a reader can compare between builds. The report has it with the step.
        """
        self.choices.append(Choice(what, value, why))

    def measured(self, of: str, figure: str, value: float, unit: str = "", *, predicted: float | None = None) -> None:
        """Report what a pass measured: ``measured("features.2", "SQNR", 21.3, "dB")``. The report has it with the step."""
        self.measurements.append(Measurement(of, figure, value, unit, predicted))

    def fail(self, node: fx.Node, reason: str, way_out: str | None = None) -> PassError:
        """Return a PassError about ``node``, to be raised."""
        error = PassError(reason, node=self.describe(node), source=source_line(node) or None, way_out=way_out)
        error.node_name = node.name
        return error

    def copy(self, instead: Mapping[int, torch.Tensor] = MappingProxyType({})) -> Program:
        """Return a copy that shares no mutable state: no weight, no graph, no example input.

        ``instead`` has tensors for the copy to have in place of weights, by the ``id`` of the weight.
        """
        twin = copy.copy(self)
        with warnings.catch_warnings():  # torch warns of its own class in the tree specs
            warnings.simplefilter("ignore", FutureWarning)
            twin.module = copy.deepcopy(self.module, dict(instead))
        for node in twin.graph.nodes:  # fx copies the dict, not the lists and dicts in it
            node.meta = {k: copy.copy(v) if isinstance(v, (dict, list)) else v for k, v in node.meta.items()}
        inputs = (self.args, self.kwargs)
        clone = lambda v: v.detach().clone() if isinstance(v, torch.Tensor) else v  # noqa: E731
        twin.args, twin.kwargs = pytree.tree_map(clone, inputs)
        twin.ranges = dict(self.ranges)
        twin.skips = list(self.skips)
        twin.choices = list(self.choices)
        twin.measurements = list(self.measurements)
        twin.claims = dict(self.claims)
        twin.kept_indices = {name: dict(dims) for name, dims in self.kept_indices.items()}
        twin.analyses = self.analyses.of_copy()
        return twin


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with memory for itself: a slice of a larger one would share it, and keep all of it."""
    if isinstance(tensor, Widened):
        tensor.settle()
        return tensor
    whole = tensor.layout != torch.strided or tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
    return tensor if whole else tensor.clone()


def fake_like(mode: FakeTensorMode, tensor: torch.Tensor) -> FakeTensor:
    """A fake tensor like a weight: as by ``mode.from_tensor`` for one that is no view, in a tenth of the time."""
    return fake_of(mode, tensor, tensor.dtype)


def fake_of(mode: FakeTensorMode, tensor: torch.Tensor, dtype: torch.dtype) -> FakeTensor:
    """A fake tensor with the sizes and strides of another, which may be fake itself."""
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="meta")
    return FakeTensor(mode, meta.requires_grad_(tensor.requires_grad), tensor.device)


def attribute(module: torch.nn.Module, name: str) -> Any:
    """What a ``get_attr`` node of this target reads. Raises AttributeError where there is none."""
    value: Any = module
    *path, leaf = name.split(".")
    for part in path:
        value = value._modules.get(part) or getattr(value, part)
    for table in (value._parameters, value._buffers, value._modules):  # quicker than by getattr, which looks there last
        if (found := table.get(leaf)) is not None:
            return found
    return getattr(value, leaf)


def _has(module: torch.nn.Module, name: str) -> bool:
    try:
        attribute(module, name)
    except AttributeError:
        return False
    return True
