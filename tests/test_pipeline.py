"""What the pipeline computes about each pass, whatever the pass says of itself."""

import pytest
import torch

from fxopt import Pipeline, graph_pass
from fxopt.errors import DataError, OptionError, PassError, UnknownNameError, UsageError
from fxopt.parsing import parse_program, same_text
from fxopt.pass_base import make
from fxopt.testing import small_workload

TEXT = "%x : f32[batch,4]; %a = aten.relu(%x); %b = aten.relu(%a); %c = aten.neg(%b); return %c"


@graph_pass
def drop_second_relu(program, *, limit: int = 10):
    """Drop a relu of a relu."""
    for node in program.find("aten.relu"):
        if node.args[0].op == "placeholder":
            program.skip(node, "its operand is an input")
        elif limit:
            program.replace(node, node.args[0])
    return True  # not asked for, not believed


@graph_pass
def rebuild(program):
    """Replace a node by its like."""
    for node in program.find("aten.neg"):
        program.replace(node, program.call(node.target, *node.args, like=node))


@graph_pass
def double_neg(program):
    """Insert two negations."""
    for node in program.find("aten.neg"):
        users = list(node.users)
        first = program.call(node.target, node, like=node)
        second = program.call(node.target, first, like=first)
        for user in users:
            user.replace_input_with(node, second)


@graph_pass
def both(*, limit: int = 10):
    """Do one after the other."""
    return drop_second_relu(limit=limit), double_neg()


@pytest.fixture
def program():
    return parse_program(TEXT)


def test_changed_is_computed(program):
    def changed(*passes):
        return [step.changed for step in Pipeline.of(*passes).run(program).steps]

    assert changed(drop_second_relu(), drop_second_relu()) == [True, False]
    assert changed(drop_second_relu(limit=0)) == [False]


def test_a_weight_edit_is_a_change():
    @graph_pass(kind="approx")
    def halve(program):
        for node in program.find("aten.linear"):
            with torch.no_grad():
                program.tensor(node.args[1]).mul_(0.5)

    on = parse_program('%x : f32[batch,4]; %w = param "w" : f32[3,4]; %y = aten.linear(%x, %w)')
    assert Pipeline.of(halve()).run(on).steps[0].changed


def test_history_holds_what_changed_something_in_order(program):
    outcome = Pipeline.of(drop_second_relu(limit=0), drop_second_relu(limit=3), double_neg()).run(program)
    assert outcome.program.history == ("drop_second_relu(limit=3)", "double_neg")
    assert program.history == ()


def test_passes_run_in_the_order_written(program):
    order = []

    def recorder(name):
        @graph_pass
        def record(program):
            order.append(name)

        return record()

    Pipeline.of(*map(recorder, "cab")).run(program)
    assert order == list("cab")


def test_skips_name_the_node_and_the_reason(program):
    outcome = Pipeline.of(drop_second_relu(), double_neg()).run(program)
    (skip,) = outcome.steps[0].skips
    assert str(skip) == "%a = aten.relu(%x) : f32[batch,4]: its operand is an input"
    assert outcome.steps[1].skips == []


def test_a_pass_of_several_runs_its_steps_and_says_so(program):
    outcome = Pipeline.of(both(limit=3)).run(program)
    assert [(s.text, s.part_of) for s in outcome.steps] == [
        ("drop_second_relu(limit=3)", "both(limit=3)"),
        ("double_neg", "both(limit=3)"),
    ]
    assert same_text(
        outcome.program,
        parse_program("%x : f32[batch,4]; %a = aten.relu(%x); %b = aten.neg(%a); %c = aten.neg(%b); %d = aten.neg(%c)"),
    )


def test_the_program_given_stays(program):
    before = program.fingerprint()
    Pipeline.of(both()).run(program)
    assert program.fingerprint() == before


def test_dead_code_and_weights_behind_a_pass_are_tidied():
    on = parse_program(
        '%x : f32[batch,4]; %w = param "a.w" : f32[4]; %y = aten.add.Tensor(%x, %w); %z = aten.sub.Tensor(%y, %w); return %z'
    )

    @graph_pass
    def cancel(program):
        for node in program.find("aten.sub.Tensor"):
            node.replace_all_uses_with(program.call(torch.ops.aten.clone.default, program.inputs()[0], like=node))

    outcome = Pipeline.of(cancel()).run(on)
    assert outcome.program.tensors() == {}
    assert not dict(outcome.program.module.named_parameters())
    assert outcome.steps[0].delta.parameters == -4


def test_figures_are_computed():
    on = parse_program(
        '%x : f32[batch,4]; %w = param "w" : f32[3,4]; %b = param "b" : f32[3]; %y = aten.linear(%x, %w, %b)'
    )
    cost = Pipeline().run(on).before
    assert (cost.macs, cost.parameters, cost.bytes) == (2 * 3 * 4, 15, 60)


def test_an_error_names_the_step_and_what_came_before(program):
    @graph_pass
    def refuse(program):
        raise program.fail(next(program.find("aten.neg")), "no negation here")

    with pytest.raises(PassError) as caught:
        Pipeline.of(double_neg(), refuse()).run(program)
    assert str(caught.value).startswith(
        "in 'refuse' (step 2 of 2, after double_neg): no negation here\n    %c = aten.neg(%b)"
    )


def test_a_pass_that_needs_data_says_so(program):
    @graph_pass(kind="approx")
    def look(program):
        workload = program.context.workload
        if workload is None:
            raise DataError("look needs a workload")
        assert len(list(workload.calibration(8, "look"))) > 0

    with pytest.raises(DataError, match=r"in 'look' .*look needs a workload"):
        Pipeline.of(look()).run(program)
    assert not Pipeline.of(look()).run(program, workload=small_workload(program)).steps[0].changed


def test_options_are_checked_when_the_value_is_made():
    with pytest.raises(OptionError, match=r"drop_second_relu\(limit=…\): takes int, got '3'"):
        drop_second_relu(limit="3")
    with pytest.raises(OptionError):
        drop_second_relu(limit=True)
    with pytest.raises(UnknownNameError, match="did you mean 'limit'"):
        make(drop_second_relu, {"limits": 3})


def test_a_pass_function_with_a_bad_signature_is_refused_at_once():
    with pytest.raises(TypeError, match="keyword-only, with a default"):

        @graph_pass
        def positional(program, limit: int):
            """Do."""

    with pytest.raises(TypeError, match="has no type"):

        @graph_pass
        def untyped(program, *, limit=3):
            """Do."""


def test_inputs_of_another_structure_are_refused(program):
    with pytest.raises(UsageError, match=r"expected \(x: f32\[batch,4\]\) -> "):
        program(torch.ones(2, 4), torch.ones(2, 4))
