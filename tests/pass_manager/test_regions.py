"""Regions that need few trials: affine ones, and those that do the same at every place of an image."""

import pytest
import torch

from fxopt import Pipeline
from fxopt.ir.op_table import set_argument
from fxopt.ir.parser import parse_program
from fxopt.pass_manager.local_proof import prove_locally
from fxopt.pass_manager.regions.affine import is_affine
from fxopt.pass_manager.regions.error import is_rounding
from fxopt.pass_manager.regions.region import Region
from fxopt.pass_manager.regions.window import Places

aten = torch.ops.aten
WEIGHT = '%w = param "w" : f32[4,4,3,3]; '
CHANNELS = "".join(f'%{n} = param "{n}" : f32[4]; ' for n in ("scale", "shift", "mean", "variance"))
NORM = "aten.batch_norm(%a, %scale, %shift, %mean, %variance, False, 0.1, 1e-5, True)"


def whole(text):
    """A program as a region, with both sides alike."""
    program = parse_program(text)
    leaves, (goal,) = tuple(program.inputs()), program.outputs()
    nodes = tuple(n for n in program.graph.nodes if n.op not in ("placeholder", "output"))
    return Region(goal, goal, nodes, nodes, leaves, {leaf: leaf for leaf in leaves}), program


AFFINE = {
    "aten.conv2d(%x, %w)": True,
    "aten.mul.Tensor(%x, 3.0)": True,
    "aten.mul.Tensor(%x, %x)": False,
    "aten.add.Tensor(%x, %x)": True,
    "aten.div.Tensor(%x, 3.0)": True,
    "aten.div.Tensor(%w, %x)": False,
    "aten.relu(%x)": False,
    "aten.slice.Tensor(%x, 0, 0, 3)": False,
    "aten.matmul(%x, %x)": False,
    "aten.conv2d(%w, %x)": False,
}


@pytest.mark.parametrize("call", AFFINE)
def test_affine_maps(call):
    size = "[4,4,3,3]" if "%w, %x" in call else "[batch,4,8,8]"
    region, program = whole(f"%x : f32{size}; {WEIGHT}%y = {call}; return %y")
    assert is_affine(region) is AFFINE[call]
    if AFFINE[call]:  # f(a) + f(b) = f(a + b) + f(0)
        a, b = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64).float()
        sides = program(a) + program(b), program(a + b) + program(a * 0)
        assert torch.allclose(*sides, atol=1e-4)


def test_batch_norm_is_affine_in_evaluation_alone():
    region, program = whole(
        f"%x : f32[batch,4,8,8]; {WEIGHT}{CHANNELS}%a = aten.conv2d(%x, %w); %y = {NORM}; return %y"
    )
    assert is_affine(region)
    (node,) = program.find("aten.batch_norm")
    set_argument(node, "training", True)
    assert not is_affine(region)


def test_bools_have_no_density():
    assert not is_affine(
        whole('%x : bool[batch,4]; %k = param "k" : f32[4]; %y = aten.mul.Tensor(%x, %k); return %y')[0]
    )


def smaller(text, size):
    region, program = whole(text)
    return Places(program, program).smaller(region, [[1, 4, size, size]])


CHAIN = (
    "%x : f32[batch,4,SIZE,SIZE]; {weight}%a = aten.conv2d(%x, %w, None, [2, 2], [1, 1]); %b = aten.relu(%a); "
    "%c = aten.max_pool2d(%b, [3, 3], [2, 2], [1, 1]); %y = aten.conv2d(%c, %w, None, [1, 1], [1, 1]); return %y"
)


@pytest.mark.parametrize("size", [64, 97, 98, 99, 224])
def test_a_smaller_image_has_the_places_of_a_larger_one(size):
    """What a changed border does on the larger image it does on the smaller one."""
    text = CHAIN.replace("SIZE", str(size)).format(weight=WEIGHT)
    less = smaller(text, size)[0]
    assert less <= size
    assert less % 4 == size % 4 or less == size
    right = parse_program(text)
    wrong = parse_program(text.replace("[3, 3], [2, 2], [1, 1]", "[3, 3], [2, 2], [0, 0]"))
    for n in (size, less):
        x = torch.ones(1, 4, n, n)
        a, b = right.module(x), wrong.module(x)
        assert a.shape != b.shape or not torch.allclose(a, b)
    assert 4 * less * less >= 4096 or less == size


def test_cost_does_not_grow_with_the_image():
    text = CHAIN.format(weight=WEIGHT)
    assert smaller(text.replace("SIZE", "1024"), 1024) == smaller(text.replace("SIZE", "128"), 128)


@pytest.mark.parametrize(
    "rest",
    [
        '%k = param "k" : f32[64,64]; %y = aten.mul.Tensor(%x, %k)',
        "%y = aten.slice.Tensor(%x, 3, 5)",
        "%y = aten.adaptive_avg_pool2d(%x, [4, 4])",
        "%y = aten.avg_pool2d(%x, [3, 3], [2, 2], [0, 0], True)",
        "%y = aten.cumsum(%x, 3)",
        "%y = aten.flip(%x, [3])",
        "%y = aten.softmax.int(%x, 3)",
        "%y = aten.layer_norm(%x, [64])",
    ],
)
def test_what_differs_by_place_keeps_its_image(rest):
    assert smaller(f"%x : f32[batch,4,64,64]; {rest}; return %y", 64) is None


def test_two_leaves_of_other_sizes_keep_theirs():
    region, program = whole("%x : f32[batch,4,64,64]; %z : f32[batch,4,1,1]; %y = aten.mul.Tensor(%x, %z); return %y")
    assert Places(program, program).smaller(region, [[1, 4, 64, 64], [1, 4, 1, 1]]) is None


def test_rounding_is_what_the_leaves_last_digits_move():
    want = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    moved = [want * (1 + 1e-12), want * (1 - 1e-12)]
    assert is_rounding(want, want * (1 + 5e-13), moved, 3.0)
    assert not is_rounding(want, want * (1 + 2e-12), moved, 3.0)
    assert not is_rounding(want, want * (1 + 1e-13), [], 0.0)


def test_beside_a_step_an_element_tells_nothing_and_the_others_do():
    want = torch.tensor([0, 0, 1])
    moved = [torch.tensor([0, 1, 1])]
    assert is_rounding(want, torch.tensor([0, 1, 1]), moved, 1.0)
    assert not is_rounding(want, torch.tensor([1, 0, 1]), moved, 1.0)


def test_what_should_be_zero_may_be_what_cancels():
    zero = torch.zeros(3, dtype=torch.float64)
    assert is_rounding(zero, zero + 1e-11, [zero], 1e3)
    assert not is_rounding(zero, zero + 1e-9, [zero], 1e3)
    assert not is_rounding(zero, zero + torch.nan, [zero], 1e3)


def test_a_region_is_not_spared_trials_for_another_that_calls_other_ops():
    """As many calls of as many leaves: one right rewrite, and one that is wrong for NaN alone, which few trials do not hold."""
    text = '%x : f32[batch,4]; %k = param "k" : f32[4]; %a = {}; %y = {}; return %y'
    before = parse_program(text.format("aten.sub.Tensor(%k, %x)", "aten.maximum(%a, %k)"))
    for last, same in ("aten.maximum(%a, %k)", True), ("aten.fmax(%a, %k)", False):
        after = parse_program(text.format("aten.rsub.Tensor(%x, %k)", last))
        proof = prove_locally(before.copy(), after, {}, 1e-9, finite=True)
        assert proof.proved is same


def test_a_proof_names_its_regions():
    program = parse_program("%x : f32[batch,4]; %y = aten.tanh(%x); %z = aten.neg(%y); return %z").copy()
    proof = prove_locally(program, program.copy(), {}, 1e-9, finite=True)
    assert (proof.proved, proof.regions) == (True, [])
    step = Pipeline.parse("drop_noop").run(
        parse_program("%x : f32[batch,4]; %c = aten.clone(%x); %y = aten.tanh(%c); return %y")
    ).steps[0]  # fmt: skip
    assert (step.findings.regions, step.findings.proof, step.findings.stored) == (1, "local", "weights")
