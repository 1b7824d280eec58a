"""Ops that pass channels on, against torch: a matrix on the channels of what they read is one on those of the result."""

import functools

import pytest
import torch
from cases.coupling_cases import CASES
from torch import fx

from fxopt.ir.op_table import family
from fxopt.ir.parser import parse_program
from fxopt.ir.printer import op_name
from fxopt.passes.stream.channels import keeps_constants, sizes, sources
from fxopt.passes.stream.layers import applied, read_by, scaled, written_by

pytestmark = pytest.mark.usefixtures("one_thread")


def values_of(case, program):
    """Random values of the inputs and weights."""
    torch.manual_seed(0)
    leaves = dict(zip(program.inputs(), program.example_leaves(), strict=True))
    leaves |= {n: program.tensor(n).detach() for n in program.graph.nodes if n.op == "get_attr"}
    for node, value in leaves.items():
        if value.is_floating_point():
            leaves[node] = torch.randn(value.shape, dtype=value.dtype)
        if node.name in case.values:
            leaves[node] = torch.as_tensor(case.values[node.name], dtype=value.dtype).expand(value.shape).clone()
    return leaves


def run(program, leaves):
    env = dict(leaves)
    for node in program.graph.nodes:
        if node.op == "call_function":
            env[node] = node.target(*fx.map_arg(node.args, env.get), **fx.map_arg(node.kwargs, env.get))
    return env


def on_channels(matrix, value, dim):
    """The oracle: a matrix applied to every block of channels along a dim, by einsum."""
    blocks = value.movedim(dim, -1).unflatten(-1, (-1, len(matrix)))
    return torch.einsum("ij,...j->...i", matrix, blocks).flatten(-2).movedim(-1, dim)


def shifted(value, vector, dim):
    """A vector added to every block of channels."""
    return value + vector.repeat(value.shape[dim] // len(vector)).reshape(
        [-1 if i == dim else 1 for i in range(value.dim())]
    )


def found_in(case):
    """Every dim of results whose channels come from operands, in two widths: all of the dim, and half of it."""
    program = parse_program(case.text)
    for node in program.graph.nodes:
        if node.op == "call_function" and family(node) != "random" and not op_name(node).endswith("_"):
            for dim, size in enumerate(sizes(node)):
                for channels in {size, size // 2 if size % 2 == 0 else size} - {0, 1}:
                    if found := sources(node, dim, channels):
                        yield program, node, dim, channels, found


@functools.cache
def found_among(part, of):
    """Of every so manieth case, what is found with all sources given, in float64."""
    found = [(case, *f, values_of(case, f[0])) for case in CASES[part::of] for f in found_in(case)]
    wide = [f for f in found if f[2].meta["val"].dtype == torch.float64]
    return [f for f in wide if all(s in f[-1] and f[-1][s].dtype == torch.float64 for s, _ in f[5])]


PARTS = [(0, 16), *(pytest.param(part, 16, marks=pytest.mark.slow) for part in range(1, 16))]


@pytest.mark.slow
def test_ops_of_every_kind_pass_channels_on():
    names = {
        op_name(found[2]).partition(".")[2].partition(".")[0] for part in range(16) for found in found_among(part, 16)
    }
    wanted = "add sub mul div neg dropout clone permute reshape view flatten transpose expand cat stack slice select roll mean"
    assert not set(wanted.split()) - names
    assert not {"relu", "softmax", "layer_norm", "max_pool2d", "cumsum", "amax", "conv2d", "linear", "sort"} & names


@pytest.mark.parametrize(("part", "of"), PARTS)
def test_matrices_and_constants_pass_through_where_it_is_said(part, of):
    assert found_among(part, of)
    for case, program, node, dim, channels, found, leaves in found_among(part, of):
        plain = run(program, leaves)[node]
        matrix = torch.randn(channels, channels, dtype=torch.float64)
        changed = {source: on_channels(matrix, leaves[source], at) for source, at in found}
        got = run(program, leaves | changed)[node]
        torch.testing.assert_close(got, on_channels(matrix, plain.double(), dim), rtol=1e-9, atol=1e-9, msg=case.text)
        if len(found) == 1 and keeps_constants(node, found[0], dim, channels):
            vector, (source, at) = matrix[0], found[0]
            got = run(program, leaves | {source: shifted(leaves[source], vector, at)})[node]
            torch.testing.assert_close(got, shifted(plain, vector, dim), rtol=1e-9, atol=1e-9, msg=case.text)


LAYERS = """
%x : f64[2,6,4]; %w = param "w" : f64[8,4]; %b = param "b" : f64[8]; %y = aten.linear(%x, %w, %b); return %y
%x : f64[6,4]; %w = param "w" : f64[4,8]; %y = aten.mm(%x, %w); return %y
%x : f64[2,6,4]; %w = param "w" : f64[4,8]; %y = aten.matmul(%x, %w); return %y
%x : f64[6,4]; %w = param "w" : f64[4,8]; %b = param "b" : f64[8]; %y = aten.addmm(%b, %x, %w); return %y
%x : f64[2,4,6,6]; %w = param "w" : f64[8,4,3,3]; %b = param "b" : f64[8]; %y = aten.conv2d(%x, %w, %b, [1,1], [1,1]); return %y
%x : f64[2,4,6]; %w = param "w" : f64[8,4,2]; %y = aten.conv1d(%x, %w); return %y
"""


@pytest.mark.parametrize("text", LAYERS.strip().splitlines())
def test_layers_write_and_read_channels_with_their_weights(text):
    program = parse_program(text)
    (layer,) = (n for n in program.graph.nodes if n.op == "call_function")
    (x,) = program.inputs()
    torch.manual_seed(0)
    leaves = {
        n: torch.randn(sizes(n), dtype=torch.float64)
        for n in program.graph.nodes
        if n.op in ("placeholder", "get_attr")
    }
    axis = 1 if "conv" in text else len(sizes(layer)) - 1
    plain, matrix = run(program, leaves)[layer], torch.randn(4, 4, dtype=torch.float64)
    written = {h.weight: applied(matrix, h.dim)(leaves[h.weight]) for h in written_by(program, layer, axis)}
    torch.testing.assert_close(run(program, leaves | written)[layer], on_channels(matrix, plain, axis))
    read = read_by(program, layer, x, axis)
    inverse = torch.linalg.inv(matrix).T  # W x = (W M⁻¹) (M x)
    held, weight = read.held, leaves[read.held.weight]
    changed = {x: on_channels(matrix, leaves[x], axis), held.weight: applied(inverse, held.dim)(weight)}
    torch.testing.assert_close(run(program, leaves | changed)[layer], plain)
    vector = torch.rand(4, dtype=torch.float64) + 0.5
    scale = {x: on_channels(torch.diag(1 / vector), leaves[x], axis), held.weight: scaled(vector, held.dim)(weight)}
    torch.testing.assert_close(run(program, leaves | scale)[layer], plain)
    assert read.pads == ("[1,1]" in text)


def test_grouped_convolutions_mix_no_channels():
    program = parse_program(
        '%x : f64[2,4,6]; %w = param "w" : f64[4,1,2]; %y = aten.conv1d(%x, %w, None, [1], [0], [1], 4); return %y'
    )
    (layer,) = (n for n in program.graph.nodes if n.op == "call_function")
    assert written_by(program, layer, 1) == []
    assert read_by(program, layer, program.inputs()[0], 1) is None
