"""The commuting square of every op: the rewritten op of what is kept equals what is kept of the op's result.

Inputs and weights get free atoms, some are removed at random, the cells that the op sums over are zeroed where they
go, and both ways round the square are compared in float64. The oracle is torch, and slicing with numpy's take.
"""

import numpy as np
import pytest
import torch
from cases.coupling_cases import CASES
from torch import fx

from fxopt.ir.op_table import TABLE
from fxopt.ir.parser import parse_program
from fxopt.ir.printer import op_name
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.coupling.table import all_rules, find_rule

pytestmark = pytest.mark.usefixtures("one_thread")

TRIES = 4
ELSEWHERE = {
    **dict.fromkeys(["aten.sym_size.int", "aten.sym_numel", "aten.sym_stride.int"], "gives a size: test_sizes_are_kept"),
    **dict.fromkeys(["aten.item", "aten._local_scalar_dense", "aten.tensor"], "no dims"),
    **dict.fromkeys([name for name, op in TABLE.items() if op.family == "check"], "gives nothing"),
    **{f"quantized_decomposed.{way}_per_{grain}{overload}": "no such overload in torch"
       for way in ("quantize", "dequantize") for grain in ("channel", "token") for overload in (".tensor", ".tensor2")},
    "quantized_decomposed.choose_qparams.tensor": "no rule: the range hangs on every index",
    "quantized_decomposed.choose_qparams_per_token_asymmetric": "no rule: the range hangs on every index of a token",
    **dict.fromkeys(["aten.empty.memory_format", "aten.new_empty", "aten.empty_like"], "whatever is in memory"),
}  # fmt: skip


def free_sweep(program):
    """The coupling of a program whose inputs can lose indices too, and whose outputs need not stay."""
    state = Sweep(program)
    for node in program.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            sizes = ax.sizes_of(node.meta["val"])
            state.axes[node] = [(state.atoms.fresh(n),) if 1 < n < ax.SYMBOLIC else (n,) for n in sizes]
            state.computed |= {node} if node.op == "placeholder" else set()
        elif node.op == "call_function":
            state.computed |= {node} if state.computed & set(node.all_input_nodes) else set()
            state.axes[node] = find_rule(node).couple(state, node) if find_rule(node) else declined(state, node)
    return state


def declined(state, node):
    for operand in node.all_input_nodes:
        state.pin(state.of(operand), node, "no rule")
    return state.fixed(node.meta["val"])


def dims(state):
    """Resolved monomials of every dim of every tensor."""
    lists = [axes if axes and isinstance(axes[0], list) else [axes] for axes in state.axes.values()]
    return [state.atoms.resolve(rows) for parts in lists for axes in parts for axis in axes for rows in ax.arrays(axis)]


def free_atoms(state):
    atoms = np.unique(np.concatenate([np.zeros(1, np.int64), *(rows.ravel() for rows in dims(state))]))
    return atoms[(state.atoms.pinned()[atoms] == 0) & (atoms != 0)]


def choose(state, random):
    """Atoms to live, at random: all but the free ones do, and each dim keeps an index."""
    live = np.ones(len(state.atoms), np.bool_)
    free = free_atoms(state)
    live[free] = random.random(len(free)) < random.choice([0.2, 0.5, 0.8])
    arrays = [rows for rows in dims(state) if len(rows)]
    while (empty := next((rows for rows in arrays if not live[rows].all(1).any()), None)) is not None:
        live[empty[random.integers(len(empty))]] = True
    return live


def zero_what_is_summed(state, live, values, random):
    """For every contraction, zero one of its operands wherever its index goes."""
    for c in state.contractions:
        alive = torch.from_numpy(live[state.atoms.resolve(c.rows)].all(1))
        choices = [*c.operands, *([] if c.weight is None else [(c.weight, None)])]
        node, dim = choices[random.integers(len(choices))]
        value = values[node]
        if dim is None:
            mask = c.spread(alive)
        else:
            mask = alive.reshape([-1 if i == dim % value.dim() else 1 for i in range(value.dim())])
        values[node] = value * mask.to(value.dtype)


def gather(value, axes, cut):
    for dim, axis in enumerate(axes):
        if (kept := cut.kept(axis)) is not None:
            value = value.index_select(dim, torch.from_numpy(kept))
    return value


def run(program, values):
    """The outputs, with inputs and weights by node; random ops draw the same numbers each time."""
    torch.manual_seed(0)
    env = {node: value.clone() for node, value in values.items()}
    for node in program.graph.nodes:
        if node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), env.get)
            env[node] = node.target(*args, **kwargs)
        elif node.op == "get_attr" and node not in env:  # a rewrite added it
            env[node] = program.tensor(node)
    return [env[node] for node in program.outputs()]


def read(case):
    program = parse_program(case.text)
    for name, tensor in program.tensors().items():
        if name in case.values:
            tensor.detach().copy_(torch.as_tensor(case.values[name]))
    values = dict(zip(program.inputs(), program.example_leaves(), strict=True))
    for node, value in values.items():
        if node.name in case.values:
            value.copy_(torch.as_tensor(case.values[node.name], dtype=value.dtype))
    return program, values | {n: program.tensor(n).detach() for n in program.graph.nodes if n.op == "get_attr"}


def square(case, seed):
    """Go both ways round; return how many dims shrank."""
    program, values = read(case)
    state, random = free_sweep(program), np.random.default_rng(seed)
    live = choose(state, random)
    zero_what_is_summed(state, live, values, random)
    cut = Cut(program, state, live)
    outputs = program.outputs()
    want = [gather(v, state.of(node), cut) for node, v in zip(outputs, run(program, values), strict=True)]
    small = {node: gather(value, state.of(node), cut) for node, value in values.items()}
    for node in list(program.graph.nodes):
        if node.op == "call_function" and (rule := find_rule(node)) and rule.rewrite:
            rule.rewrite(cut, node)
    for a, b in zip(want, run(program, small), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10, equal_nan=True, msg=lambda m: f"{m}\n{program.text()}")
    cells = [*values, *(n for n in outputs if isinstance(n.meta["val"], torch.Tensor))]
    return sum(cut.shrinks(axis) for node in cells for axis in state.of(node))


@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(c.text.split("; ")[-2:])[:100])
def test_square(case):
    state = free_sweep(read(case)[0])
    why = {state.reasons[n - 1].text for n in state.atoms.pinned() if n}
    assert len(free_atoms(state)) == case.free, f"pinned: {why}"
    gone = sum(square(case, seed) for seed in range(TRIES if case.free else 1))
    assert (gone > 0) == (case.free > 0), "nothing was removed"


def names_in_cases():
    names = {op_name(n) for case in CASES for n in parse_program(case.text).graph.nodes}
    return names | {without_overload(name) for name in names}


def without_overload(name):
    return name.rsplit(".", 1)[0] if name.count(".") > 1 else name


def test_every_op_and_rule_has_a_case():
    seen = names_in_cases()
    assert not set(TABLE) - seen - set(ELSEWHERE), "add cases for these ops"
    assert not seen & set(ELSEWHERE), "these are in the list of exceptions, and have cases"
    find_rule(next(iter(parse_program(CASES[0].text).graph.nodes)))  # reads the files of rules
    rules = {name for name in all_rules() if not name.startswith("family:")}
    assert not rules - seen - {without_overload(name) for name in ELSEWHERE}, "add cases for these rules"


def test_sizes_are_kept():
    """What reads the size of a dim that shrinks goes on computing with the old one, on which rewrites build."""
    for read, size in (("sym_size.int(%x, 1)", 12), ("sym_size.int(%x, -1)", 4), ("sym_numel(%x)", 2 * 12 * 4)):
        program = parse_program(f"%x : f64[b,12,4]; %s = aten.{read}; %y = aten.full([%s], 1.0); return %y")
        assert run(program, {program.inputs()[0]: torch.zeros(2, 12, 4)})[0].shape == (size,)
        state = free_sweep(program)
        live = np.arange(len(state.atoms)) % 4 != 1
        cut = Cut(program, state, live)
        for node in list(program.find("aten.sym_size", "aten.sym_numel")):
            find_rule(node).rewrite(cut, node)
        assert run(program, {program.inputs()[0]: torch.zeros(2, 9, 3)})[0].shape == (size,)
    state = free_sweep(parse_program("%x : f64[b,12,4]; %s = aten.sym_stride.int(%x, 0); %y = aten.full([%s], 1.0)"))
    assert all(state.atoms.pinned()[1:17])
