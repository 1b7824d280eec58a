"""A wrong pass of each kind is caught, and the message says which, where, expected and got, and the way out."""

import math
import operator
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

from fxopt import Pipeline, capture, graph_pass
from fxopt.errors import PassCrashError, PassError, VerifyError
from fxopt.ir.parser import parse_program
from fxopt.numerics.error_metrics import bulk_scale, clearly_close, relative_error, sqnr
from fxopt.numerics.execute import run
from fxopt.numerics.probe_inputs import probe_inputs
from fxopt.pass_manager.interface_check import may_share
from fxopt.pass_manager.pipeline import Outcome
from fxopt.pass_manager.verify import Verify

aten = torch.ops.aten
LINE = next(
    i for i, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith("# the two outputs")
)
SOURCE = f"test_verify.py:{LINE}"


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x, y):
        hidden = self.linear(x).relu()
        return self.head(hidden), hidden - y  # the two outputs


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return capture(Net(), (torch.randn(2, 4), torch.randn(2, 3)))


@pytest.fixture
def caught(program):
    """The message of what running a wrong pass raises, after an innocent one, with the program still as it was."""

    def run(pass_, error=VerifyError, on=program):
        before = on.fingerprint()
        with pytest.raises(error) as info:
            Pipeline.of(_innocent(), pass_()).run(on)
        assert type(info.value) is error
        assert on.fingerprint() == before
        message = str(info.value)
        assert f"'{pass_.name}' (step 2 of 2, after _innocent)" in message
        return message

    return run


@graph_pass
def _innocent(program):
    """Do nothing."""


def _first(program, op):
    return next(program.find(op))


def _add_after(program, node, number):
    """Let all users of a node read ``node + number``."""
    new = program.call(aten.add.Tensor, node, number, like=node)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    return new


def test_wrong_shape(caught):
    @graph_pass
    def cut_channels(program):
        node = _first(program, "aten.sub.Tensor")
        new = program.call(aten.slice.Tensor, node, 1, 0, 2, like=node)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    message = caught(cut_channels)
    assert "output 1: was float32[batch, 3], is float32[batch, 2]" in message
    assert "%slice_tensor = aten.slice.Tensor(%sub, 1, 0, 2) : f32[batch,2]" in message
    assert SOURCE in message  # the user's line of the node
    assert "may not change the inputs or outputs" in message


def test_wrong_dtype(caught):
    @graph_pass
    def halve(program):
        node = _first(program, "aten.sub.Tensor")
        new = program.call(aten.to.dtype, node, torch.float16, like=node)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    assert "output 1: was float32[batch, 3], is float16[batch, 3]" in caught(halve)


def test_wrong_number_by_a_millionth(caught):
    @graph_pass
    def nudge(program):
        node = _first(program, "aten.relu")
        new = program.call(aten.mul.Tensor, node, 1 + 1e-6, like=node)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    message = caught(nudge)
    assert "output 0 changed by" in message
    assert "relative in float64, allowed 1e-09, on the example inputs" in message
    assert "%linear_1 = aten.linear(" in message
    assert SOURCE in message
    assert "declare kind='approx'" in message


def test_wrong_only_on_other_inputs(caught):
    """The example's values are inside the clamp; the random inputs are not."""

    @graph_pass
    def clamp_inputs(program):
        x = program.inputs()[0]
        _insert_after_inputs(program, x, aten.clamp.default, -bound, bound)

    on = capture(torch.nn.Linear(4, 2), (torch.randn(2, 4),))
    bound = on.args[0].abs().max().item()
    message = caught(clamp_inputs, on=on)
    assert "on random inputs" in message


def _insert_after_inputs(program, node, op, *args):
    last = program.inputs()[-1]
    with program.graph.inserting_after(last):
        new = program.graph.call_function(op, (node, *args))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    return new


def test_use_before_definition(caught):
    @graph_pass
    def move_up(program):
        relu, linear = _first(program, "aten.relu"), _first(program, "aten.linear")
        linear.prepend(relu)

    message = caught(move_up, PassCrashError)
    assert "used before it has been defined" in message
    assert "Pass developer" in message


def test_erased_node_in_use(caught):
    @graph_pass
    def erase_relu(program):
        program.graph.erase_node(_first(program, "aten.relu"))

    message = caught(erase_relu, PassCrashError)
    assert "RuntimeError" in message
    assert "relu" in message
    assert "program.skip(node, reason)" in message


def test_shapes_that_do_not_fit(caught):
    @graph_pass
    def transpose_hidden(program):
        node = _first(program, "aten.relu")
        new = program.call(aten.t.default, node, like=node)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    message = caught(transpose_hidden, PassError)
    assert "shapes do not fit" in message
    assert "%linear_1 = aten.linear(" in message
    assert SOURCE in message


def test_dropped_output(caught):
    @graph_pass
    def drop_second(program):
        output = program.graph.output_node()
        output.args = (output.args[0][:1],)

    message = caught(drop_second)
    assert "there were 2 output(s), there are 1" in message


def test_changed_input_order(caught):
    @graph_pass
    def swap_inputs(program):
        x, y = program.inputs()
        x.prepend(y)

    message = caught(swap_inputs)
    assert "input 0: was x: f32[batch,4], is y: f32[batch,3]" in message
    assert "input 1: was y: f32[batch,3], is x: f32[batch,4]" in message


def test_swapped_outputs_of_equal_type(caught):
    on = parse_program("%x : f32[batch,4]; %y = aten.relu(%x); %z = aten.neg(%x); return %y, %z")

    @graph_pass
    def swap_outputs(program):
        output = program.graph.output_node()
        output.args = (tuple(reversed(output.args[0])),)

    assert "output 0 changed by" in caught(swap_outputs, on=on)


def test_output_that_becomes_the_input(caught):
    on = parse_program("%x : f32[batch,4]; %y = aten.clone(%x); return %y")

    @graph_pass
    def drop_clone(program):
        for node in program.find("aten.clone"):
            program.replace(node, node.args[0])

    message = caught(drop_clone, on=on)
    assert "output 0 shares memory with input x, and did not before" in message
    assert "keep a copy (aten.clone) at the output" in message


def test_output_that_becomes_a_weight(caught):
    on = parse_program(
        '%x : f32[batch,4]; %w = param "w" : f32[4]; %y = aten.clone(%w); %z = aten.add.Tensor(%x, %w); return %y, %z'
    )

    @graph_pass
    def drop_clone(program):
        for node in program.find("aten.clone"):
            program.replace(node, node.args[0])

    assert "output 0 shares memory with weight w" in caught(drop_clone, on=on)


def test_in_place_edit_of_a_weight(caught):
    @graph_pass
    def double_weight(program):
        with torch.no_grad():
            program.tensor(_first(program, "aten.linear").args[1]).mul_(2)

    assert "the pass changed linear.weight in place" in caught(double_weight)


def test_in_place_edit_of_a_weight_in_float64_alone(caught):
    """The twin before the step shares its weights with the replay."""

    @graph_pass
    def double_weight(program):
        weight = program.tensor(_first(program, "aten.linear").args[1])
        if weight.dtype == torch.float64:
            with torch.no_grad():
                weight.mul_(2)
        else:
            program.set_tensor("linear.weight", weight.detach() * 2)

    assert "weights of the program in float64 in place" in caught(double_weight)


def test_a_batch_written_into_the_graph(caught):
    on = parse_program(
        "%x : f32[batch,4]; %n = aten.sym_size.int(%x, 0); %y = aten.view(%x, [%n, 2, 2]); %z = aten.sum.dim_IntList(%y, [1])"
    )

    @graph_pass
    def fix_batch(program):
        node = _first(program, "aten.view")
        node.args = (node.args[0], [2, 2, 2])

    with pytest.raises(PassError) as info:
        Pipeline.of(_innocent(), fix_batch()).run(on)
    assert "'fix_batch' (step 2 of 2" in str(info.value)
    assert "view" in str(info.value) or "was float32[batch, 2], is float32[2, 2]" in str(info.value)


def test_a_constant_of_the_batch(caught):
    """Right for the example's batch alone, and of the right shape for every batch."""
    on = parse_program(
        "%x : f32[batch,4]; %n = aten.sym_size.int(%x, 0); %y = mul(%n, 3); %z = aten.mul.Tensor(%x, %y); return %z"
    )

    @graph_pass
    def fold_size(program):
        node = _first(program, "aten.mul.Tensor")
        node.args = (node.args[0], 6)

    message = caught(fold_size, on=on)
    assert "output 0 changed by 0.333 relative" in message
    assert "on random inputs" in message


def test_nan(caught):
    @graph_pass
    def divide_by_zero(program):
        node = _first(program, "aten.relu")
        new = program.call(aten.div.Tensor, node, 0.0, like=node)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    assert "output 0 changed by inf relative" in caught(divide_by_zero)

    @graph_pass(kind="approx")
    def divide_by_zero_roughly(program):
        divide_by_zero().run(program)

    message = caught(divide_by_zero_roughly)
    assert "output 0 is no longer finite" in message
    assert "%linear_1 = aten.linear(" in message


def test_right_in_float64_and_wrong_in_float32(caught):
    """A detour through a number that float32 cannot hold."""

    @graph_pass
    def add_and_take_away(program):
        node = _first(program, "aten.relu")
        _add_after(program, _add_after(program, node, 1e5), -1e5)

    message = caught(add_and_take_away)
    assert "output 0 changed by" in message
    assert "relative in its own precision, allowed 0.0001" in message


def test_a_weight_stored_too_coarsely(caught):
    @graph_pass
    def store_coarsely(program):
        node = _first(program, "aten.linear")
        weight = program.tensor(node.args[1])
        if weight.dtype == torch.float32:  # in float64 it does nothing, so the proof alone would let it pass
            new = program.add_tensor("coarse", weight.bfloat16().float(), node)
            node.args = (node.args[0], new, *node.args[2:])

    assert "relative as stored" in caught(store_coarsely)


def test_one_infinite_element_after_an_approximate_pass(caught):
    @graph_pass(kind="approx")
    def overflow(program):
        node = _first(program, "aten.sub.Tensor")
        new = program.call(aten.div.Tensor, node, 0.0, like=node)
        first = program.call(aten.slice.Tensor, new, 1, 0, 1, like=new)
        rest = program.call(aten.slice.Tensor, node, 1, 1, 3, like=first)
        joined = program.call(aten.cat.default, [first, rest], 1, like=rest)
        keep = {new, first, rest}
        node.replace_all_uses_with(joined, delete_user_cb=lambda user: user not in keep)

    assert "output 1 is no longer finite" in caught(overflow)


def test_outputs_in_another_structure(program):
    @graph_pass
    def as_list(program):
        info = program.graph._codegen.pytree_info
        spec = pytree.tree_structure([0, 0])
        program.graph.set_codegen(type(program.graph._codegen)(info._replace(out_spec=spec)))

    with pytest.raises(VerifyError, match="structure of the inputs or outputs changed"):
        Pipeline.of(as_list()).run(program)


def test_an_approximate_pass_is_measured(program):
    @graph_pass(kind="approx")
    def round_weight(program):
        node = _first(program, "aten.linear")
        weight = program.tensor(node.args[1])
        new = program.add_tensor("rounded", (weight * 64).round() / 64, node)
        node.args = (node.args[0], new, *node.args[2:])

    outcome = Pipeline.of(round_weight()).run(program)
    got = outcome.steps[0].findings.sqnr_db
    assert got == pytest.approx(_sqnr(program, outcome), abs=0.5)
    assert 20 < got < 80


def _sqnr(program, outcome: Outcome):
    """The definition, in float32, on the inputs that the verification tries."""
    worst = math.inf
    for inputs in probe_inputs(program):
        for a, b in zip(program(*inputs), outcome.program(*inputs), strict=True):
            worst = min(worst, 10 * math.log10(float((a**2).sum() / ((a - b) ** 2).sum())))
    return worst


def test_an_exact_pass_has_its_error_reported(program):
    @graph_pass
    def swap_operands(program):
        node = _first(program, "aten.sub.Tensor")
        new = program.call(aten.neg.default, node.args[1], like=node)
        added = program.call(aten.add.Tensor, new, node.args[0], like=new)
        program.replace(node, added)

    outcome = Pipeline.of(swap_operands()).run(program)
    assert outcome.steps[0].changed
    assert 0 <= outcome.steps[0].findings.error <= 1e-12


@pytest.mark.parametrize(("share", "allowed"), [(0.5e-9, True), (2e-9, False)])
def test_the_tolerance_is_what_an_error_is_held_to(share, allowed, program):
    """An exact pass may be off by 1e-9 in float64."""

    @graph_pass
    def stretch(program):
        node = _first(program, "aten.sub.Tensor")
        new = program.call(aten.mul.Tensor, node, 1 + share, like=node)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    if allowed:
        assert Pipeline.of(stretch()).run(program).steps[0].findings.error == pytest.approx(share, rel=0.01)
    else:
        with pytest.raises(VerifyError, match="allowed 1e-09"):
            Pipeline.of(stretch()).run(program)


def test_a_pass_that_only_raises_names_the_step(caught):
    @graph_pass
    def crash(program):
        operator.getitem([], 3)

    message = caught(crash, PassCrashError)
    assert "IndexError: list index out of range" in message


def test_constant_outputs_prove_nothing():
    on = parse_program("%x : f32[batch,4]; %z = aten.mul.Tensor(%x, 0.0); %y = aten.relu(%z); return %y")

    @graph_pass
    def drop_relu(program):
        node = _first(program, "aten.relu")
        program.replace(node, node.args[0])

    findings = Pipeline.of(drop_relu()).run(on).steps[0].findings
    assert (findings.proof, findings.vacuous) == ("local", None)  # the relu was run by itself
    (findings,) = (s.findings for s in Pipeline.of(drop_relu()).run(on, watchers=(Verify("own_precision"),)).steps)
    assert "proves nothing" in findings.vacuous


class Of(torch.nn.Module):
    """A module that is one function of its layers and inputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def _of(function, *inputs, dynamic="batch", **layers):
    return capture(Of(function, **layers).eval(), inputs, dynamic=dynamic)


def _normed(**more):
    """A convolution with a batch norm that has seen data."""
    norm = torch.nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return {"conv": torch.nn.Conv2d(3, 8, 3), "norm": norm} | more


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
FOLD = Pipeline.parse("fold_batch_norm")


@graph_pass
def zero_weight(program):
    node = _first(program, "aten.linear")
    program.swap_tensor(node, node.args[1], torch.zeros_like(program.tensor(node.args[1])))


@graph_pass
def forget_six(program):
    for node in program.find("aten.relu6"):
        program.replace(node, program.call(aten.relu.default, node.args[0], like=node))


@graph_pass
def drop_where(program):
    for node in program.find("aten.where.self"):
        program.replace(node, node.args[1])


def test_a_huge_fill_value_hides_no_error(caught):
    def masked(self, x, keep):
        return self.fc(x).masked_fill(keep, torch.finfo(torch.float32).min)

    keep = torch.tensor([[True, False, False, False]])
    assert "output 0 changed by" in caught(
        zero_weight, on=_of(masked, torch.randn(1, 4), keep, fc=torch.nn.Linear(4, 4))
    )


def test_an_error_is_relative_to_the_element_or_the_bulk():
    want = torch.tensor([1.0, 2.0, 1e38, 1e-20])
    assert bulk_scale(want) == 2.0
    assert relative_error(want, want + torch.tensor([0.5, 0, 0, 0])) == 0.25
    assert relative_error(want, want * torch.tensor([1, 1, 2, 1])) == pytest.approx(1.0)
    assert bulk_scale(torch.tensor([1e-10, -1e-12])) == pytest.approx(1e-10)
    assert 1 <= bulk_scale(torch.rand(20_000_000) + 0.01) < 1.01
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.zeros(2), torch.ones(2)) == math.inf


def test_integers_and_bools_err_by_the_share_that_differs():
    assert relative_error(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 400])) == 0.25
    assert relative_error(torch.tensor([True, False]), torch.tensor([False, False])) == 0.5
    assert relative_error(torch.tensor([5, 6]), torch.tensor([7, 8])) == 1


def test_equal_infinities_and_nans_are_equal():
    want = torch.tensor([1.0, math.inf, -math.inf, math.nan])
    assert relative_error(want, want.clone()) == 0
    assert relative_error(want, torch.tensor([1.0, math.inf, math.inf, math.nan])) == math.inf
    assert relative_error(want, torch.tensor([math.nan, math.inf, -math.inf, math.nan])) == math.inf


def test_both_values_of_a_bool_input_are_tried(caught):
    on = _of(lambda self, x, keep: torch.where(keep, x * 2, x), torch.randn(2, 4), torch.ones(2, 4, dtype=torch.bool))
    assert "on random inputs" in caught(drop_where, on=on)


def test_every_dynamic_size_is_varied_within_its_range(caught):
    @graph_pass
    def fold_length(program):
        node = _first(program, "aten.mul.Tensor")
        node.args = (node.args[0], 5)

    dim = torch.export.Dim
    on = _of(
        lambda self, x: x * x.shape[1], torch.randn(2, 5), dynamic={"inputs": ({0: dim("n"), 1: dim("m", max=9)},)}
    )
    assert "on random inputs" in caught(fold_length, on=on)
    assert [tuple(x.shape) for (x,) in probe_inputs(on)] == [(2, 5), (3, 7)]
    on.ranges = dict.fromkeys(on.ranges, (2, 5))
    assert tuple(probe_inputs(on)[1][0].shape) == (3, 3)


def test_a_number_that_may_vary_is_varied():
    on = _of(lambda self, x, n: x * n, torch.ones(3), 4, dynamic={"inputs": (None, torch.export.Dim.DYNAMIC)})
    assert probe_inputs(on)[1][1] == 5


def test_sizes_that_the_model_does_not_take_are_not_tried():
    on = parse_program('%x : f32[batch,n]; %w = param "w" : f32[3,8]; %y = aten.linear(%x, %w)')
    assert [tuple(x.shape) for (x,) in probe_inputs(on)] == [(2, 8), (3, 8)]
    on = parse_program('%x : f32[n,m]; %w = param "w" : f32[2,8]; %y = aten.add.Tensor(%x, %w)')
    assert [tuple(x.shape) for (x,) in probe_inputs(on)] == [(2, 8), (2, 8)]


def test_inputs_beyond_the_example_are_tried(caught):
    on = _of(lambda self, x: torch.nn.functional.relu6(x) * 2, torch.ones(1, 4))
    assert "on random inputs" in caught(forget_six, on=on)


def test_complex_outputs_are_compared(caught):
    @graph_pass
    def conjugate(program):
        node = _first(program, "aten.mul.Tensor")
        new = program.call(aten._conj_physical.default, node, like=node)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    @graph_pass
    def swap(program):
        node = _first(program, "aten.mul.Tensor")
        node.args = (node.args[1], node.args[0])

    on = _of(lambda self, x: torch.fft.fft(self.fc(x)) * (1 + 2j), torch.randn(2, 4), fc=torch.nn.Linear(4, 4))
    assert "output 0 changed by" in caught(conjugate, on=on)
    on = _of(lambda self, x, y: x * y, *torch.randn(2, 2, 4, dtype=torch.complex64))
    assert Pipeline.of(swap()).run(on).steps[0].changed


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("want", "got", "decibel"),
    [
        ([1, 2, 3], [1, 2, 3], INF),
        ([10, 0], [10, 1], 20),
        ([True, False], [False, True], 10 * math.log10(1 / 2)),
        ([10 + 0j, 0j], [10 + 0j, 1j], 20),
        ([10.0, NAN], [11.0, NAN], 20),
        ([10.0, -INF], [11.0, -INF], 20),
        ([10.0, 10.0, -3e38], [11.0, 10.0, -3e38], 10 * math.log10(200)),
        ([1.0, NAN], [1.0, 2.0], -INF),
        ([1.0, 2.0], [1.0, NAN], -INF),
        ([1.0, INF], [1.0, -INF], -INF),
        ([1.0, 2.0], [1.0, INF], -INF),
        ([0.0], [1.0], -INF),
        ([1.0, 2.0], [1.0], -INF),
    ],
)
def test_sqnr_counts_every_kind_of_output(want, got, decibel):
    assert sqnr([torch.tensor(want)], [torch.tensor(got)]) == pytest.approx(decibel)


def test_an_approximate_pass_that_changes_integers_is_measured():
    @graph_pass(kind="approx")
    def add_one(program):
        _add_after(program, _first(program, "aten.argmax"), 1)

    on = parse_program("%x : f32[batch,9]; %y = aten.argmax(%x, 1)")
    assert Pipeline.of(add_one()).run(on).steps[0].findings.sqnr_db < 30


class Counting(torch.nn.Module):
    """Counts its runs, and gives what it has counted."""

    def __init__(self):
        super().__init__()
        for name, layer in _normed().items():
            setattr(self, name, layer)
        self.register_buffer("seen", torch.ones(1, dtype=torch.long))

    def forward(self, x):
        self.seen.add_(1)
        return self.norm(self.conv(x)) * self.seen


def test_every_run_starts_from_the_same_buffers_and_leaves_them():
    program = capture(Counting(), (IMAGE,))
    outcome = FOLD.run(program)
    assert outcome.steps[0].changed
    assert outcome.program.tensors()["seen"].item() == program.tensors()["seen"].item() == 1
    assert torch.allclose(outcome.program(IMAGE), program(IMAGE), atol=1e-4)
    assert outcome.program.tensors()["seen"].item() == 2  # outside of verification it counts


def test_random_numbers_are_the_same_in_every_run_and_the_callers_stay():
    def noisy(self, x):
        return torch.nn.functional.dropout(self.norm(self.conv(x)), 0.5, True)

    on = _of(noisy, IMAGE, **_normed())
    state = torch.get_rng_state()
    assert FOLD.run(on).steps[0].changed
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("last", [lambda y: (y * 1e4).to(torch.int32), lambda y: y.flatten(1).argsort()])
def test_rounding_may_change_a_few_elements_of_a_discrete_output(last):
    image = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    on = _of(lambda self, x: last(self.norm(self.conv(x))), image, **_normed())
    assert FOLD.run(on).steps[0].findings.error <= 1e-9


def test_a_discrete_output_that_differs_is_caught(caught):
    on = _of(lambda self, x: self.fc(x).argmax(1), torch.randn(9, 4), fc=torch.nn.Linear(4, 4))
    assert "as a share of its elements in float64, allowed 1e-09" in caught(zero_weight, on=on)


def test_what_overflows_before_and_after_is_no_change():
    on = _of(lambda self, x: (self.norm(self.conv(x)) * 40).exp(), IMAGE, **_normed())
    assert on(IMAGE).isinf().any()
    assert FOLD.run(on).steps[0].changed


def test_an_approximate_pass_may_not_change_a_shape(caught):
    on = parse_program(
        "%x : f32[batch,4]; %n = aten.sym_size.int(%x, 0); %m = mul(%n, 2); %y = aten.expand(%x, [2, %n, 4]); "
        "%z = aten.reshape(%y, [%m, 4])"
    )

    @graph_pass(kind="approx")
    def add_a_third(program):
        node = _first(program, "aten.reshape")
        program.replace(node, program.call(aten.cat.default, program.inputs() * 3, like=node))

    assert "output 0 changed its shape: was f64[4,4], is f64[6,4]" in caught(add_a_third, on=on)


def test_a_program_without_float64_is_said_so():
    @torch.library.custom_op("fxopt_test::only_float32", mutates_args=())
    def only_float32(x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32, "float32 only"
        return x.clone()

    only_float32.register_fake(torch.empty_like)
    on = _of(lambda self, x: torch.relu(only_float32(x) * 1), torch.randn(2, 4))
    outcome = Pipeline.parse("drop_noop").run(on)
    assert outcome.steps[0].findings.proof == "local"  # what was rewritten has float64, and nothing else is run
    with pytest.raises(VerifyError, match=r"does not run in float64\n.*float32 only(.|\n)*--proof own_precision"):
        Pipeline.of(_nearly()).run(on)
    for proof, finding in (("own_precision", "own precision"), ("none", "none")):
        steps = Pipeline.of(_nearly()).run(on, watchers=(Verify(proof),)).steps
        assert steps[0].findings.proof == finding


@graph_pass(kind="approx")
def _nearly(program):
    node = next(program.find("aten.relu"))
    program.replace(node, program.call(aten.leaky_relu.default, node.args[0], 1e-5, like=node))


@pytest.mark.parametrize("special", [0.0, -3e38, math.inf, math.nan, 1e-12])
@pytest.mark.parametrize("off", [0.0, 1e-13, 1e-10, 1e-8, 1.0])
@pytest.mark.parametrize("size", [1, 7, 250_000])
def test_a_glance_never_accepts_what_a_look_does_not(special, off, size):
    random = torch.Generator().manual_seed(0)
    want = torch.randn(size, generator=random, dtype=torch.float64) * torch.rand(size, generator=random) ** 9
    want[:: 1 + size // 3] = special
    got = want.clone()
    got[size // 2] += off
    if clearly_close(want, got, 1e-9):
        assert relative_error(want, got) <= 1e-9
    assert clearly_close(want, got, 1e-9) or off > 0 or not math.isfinite(special) or not want.any(), "it is of use"


def test_outputs_that_are_said_to_share_nothing_share_nothing(programs):
    """Held against the addresses in a run."""
    apart = {name for name, program in programs.items() if not may_share(program)}
    assert len(apart) > 5
    for name in apart:
        assert not run(programs[name], programs[name].example_leaves(), wide=False).aliases, name
    for text in ("%y = aten.view(%x, [-1])", "%y = aten.relu_(%x)", "%y = aten.dropout(%x, 0.5, False)"):
        assert may_share(parse_program(f"%x : f32[batch,4]; {text}; return %y"))
    assert may_share(parse_program("%x : f32[batch,4]; %y = aten.relu(%x); return %y, %y"))


def test_a_step_that_is_proved_by_regions_still_has_to_run():
    on = parse_program("%x : f32[batch,4]; %z = aten.neg(%x); %y = aten.neg(%z); return %y")
    ran = []

    class Noting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            ran.extend((str(func), v.dtype, tuple(v.shape)) for v in args[:1] if isinstance(v, torch.Tensor))
            return func(*args, **(kwargs or {}))

    @graph_pass
    def turned_twice(program):
        node = list(program.find("aten.neg"))[1]
        program.replace(node, program.call(torch.ops.aten.mul.Tensor, node.args[0], -1.0, like=node.args[0]))

    with Noting():
        (step,) = Pipeline.of(turned_twice()).run(on).steps
    assert step.findings.proof == "local"
    assert ("aten.mul.Tensor", torch.float32, tuple(on.args[0].shape)) in ran


class Positive(torch.nn.Module):
    """Scores, those above zero, whose number depends on the values, and, where it is asked for, nothing else."""

    def __init__(self, alone):
        super().__init__()
        self.fc, self.alone = torch.nn.Linear(4, 64), alone

    def forward(self, x):
        scores = self.fc(x)
        kept = scores[scores > 0]
        return kept if self.alone else (scores, kept)


@graph_pass(kind="approx")
def shift_scores(program):
    """Add to a bias, so that another number of scores is above zero."""
    program.set_tensor("fc.bias", program.tensors()["fc.bias"].detach() + 0.05)


@pytest.mark.parametrize("proof", ["float64", "own_precision"])
def test_outputs_of_a_size_that_depends_on_the_values_are_not_compared_number_by_number(proof):
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    program = capture(Positive(alone=False).eval(), (x,))
    outcome = Pipeline.of(shift_scores()).run(program, watchers=(Verify(proof),))
    assert len(outcome.program(x)[1]) != len(program(x)[1])
    (step,) = outcome.steps
    assert step.findings.vacuous is None
    assert 10 < step.findings.sqnr_db < 40  # of the scores: 0.05 beside about one

    program = capture(Positive(alone=True).eval(), (x,))
    (step,) = Pipeline.of(shift_scores()).run(program, watchers=(Verify(proof),)).steps
    assert step.findings.sqnr_db is None
    assert "sizes of all outputs depend on the values" in step.findings.vacuous
