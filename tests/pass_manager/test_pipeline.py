"""What the pipeline computes about each pass, whatever the pass says of itself."""

import math
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.export import Dim

import fxopt
from fxopt import Context, Pass, Pipeline, capture, graph_pass
from fxopt.errors import (
    DataError,
    FxoptError,
    OptionError,
    PassCrashError,
    PassError,
    UnknownNameError,
    UsageError,
    VerifyError,
)
from fxopt.ir.cost import cost, macs_of
from fxopt.ir.parser import parse_program, same_text
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.pass_base import make
from fxopt.target import find_target
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


WEIGHED = '%x : f32[batch,4]; %w = param "w" : f32[3,4]; %y = aten.linear(%x, %w)'


def test_another_weight_is_a_change():
    @graph_pass(kind="approx")
    def halve(program):
        program.set_tensor("w", program.tensors()["w"].detach() * 0.5)

    assert Pipeline.of(halve()).run(parse_program(WEIGHED)).steps[0].changed


@pytest.mark.parametrize(
    "edit", [lambda w: w.mul_(2), lambda w: w.data.neg_(), lambda w: w.detach().numpy().sort(), lambda w: w.zero_()]
)
@pytest.mark.parametrize("watchers", [None, ()])
def test_a_weight_may_not_be_changed_in_place(edit, watchers):
    """However it is done; and the program that the pipeline was given stays as it is."""

    @graph_pass(kind="approx")
    def change(program):
        with torch.no_grad():
            edit(program.tensors()["w"])

    on = parse_program(WEIGHED)
    before = on.fingerprint()
    with pytest.raises(VerifyError, match=r"'change' \(step 2 of 2.*the pass changed w in place"):
        Pipeline.of(double_neg(), change()).run(on, watchers=watchers)
    assert on.fingerprint() == before


def test_steps_share_weights_and_have_their_own_buffers():
    on = parse_program(
        '%x : f32[batch,4]; %w = param "w" : f32[4096,4]; %n = param "running_n" : f32[4]; %m = aten.add_.Tensor(%n, 1); '
        "%y = aten.linear(%x, %w); %z = aten.add.Tensor(%x, %m); return %y, %z"
    )
    twin = shared_copy(on)
    memory = [{name: t.data_ptr() for name, t in p.tensors().items()} for p in (on, twin, on.copy())]
    assert memory[0]["w"] == memory[1]["w"] != memory[2]["w"]
    assert memory[0]["running_n"] != memory[1]["running_n"]
    twin.module.requires_grad_(False)
    assert on.tensors()["w"].requires_grad


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
    before = Pipeline().run(on).before
    assert (before.macs, before.parameters, before.bytes) == (3 * 4, 15, 60)


def test_macs_are_of_one_example_where_the_batch_is_dynamic():
    model, wide = nn.Conv2d(3, 8, 3), torch.randn(2, 3, 6, 6)
    per_example = 8 * 3 * 9 * 16
    for batch in (1, 2, 5):
        program = capture(model, (wide[:1].repeat(batch, 1, 1, 1),))
        assert (cost(program).macs, macs_of(program)) == (per_example, "one example")
    sizes = {0: Dim("batch", min=1), 2: 2 * Dim("h", min=3), 3: Dim("w", min=6)}
    assert cost(capture(model, (wide,), dynamic=(sizes,))).macs == per_example
    fixed = capture(model, (wide,), dynamic=None)
    assert (cost(fixed).macs, macs_of(fixed)) == (2 * per_example, "the example inputs")


def test_parameters_are_what_training_learns_however_it_is_stored():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(64, 6)
            self.register_buffer("table", torch.randn(4, 4, 4))

        def forward(self, x):
            x = self.norm(self.conv(x)) + self.table * 2
            return self.fc(x.flatten(1)) * torch.arange(6.0).sqrt()

    model = Net().eval()
    program = capture(model, (torch.randn(2, 3, 4, 4),))
    assert cost(program).parameters == sum(p.numel() for p in model.parameters())
    folded = Pipeline.parse("fold_batch_norm, fold_constants").run(program).program
    quantized = Pipeline.parse("quantize_weights").run(folded).program
    weights = sum(p.numel() for p in (*model.conv.parameters(), *model.fc.parameters()))
    assert cost(folded).parameters == cost(quantized).parameters == weights


def test_a_step_says_the_same_of_a_node_once():
    @graph_pass
    def stutter(program: Program) -> None:
        """Say the same twice."""
        for _ in range(2):
            program.skip(program.graph.output_node(), "it ends here")

    program = parse_program("%x : f32[2,3]; %y = aten.relu(%x)")
    assert [s.reason for s in Pipeline.of(stutter()).run(program).steps[0].skips] == ["it ends here"]


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
    def look(program, context):
        if context.workload is None:
            raise DataError("look needs a workload")
        assert len(list(context.workload.calibration(8, "look"))) > 0

    with pytest.raises(DataError, match=r"in 'look' .*look needs a workload"):
        Pipeline.of(look()).run(program)
    assert not Pipeline.of(look()).run(program, workload=small_workload(program)).steps[0].changed


def test_a_pass_is_handed_the_context_and_its_replay_the_same(program):
    seen = []

    @graph_pass
    def drop_one(program, context, *, limit: int = 1):
        seen.append((context, limit))
        drop_second_relu(limit=limit).run(program)

    given, target = small_workload(program), find_target("host")
    outcome = Pipeline.of(rebuild(), drop_one(limit=2)).run(program, workload=given, target=target)
    assert outcome.steps[1].changed
    assert seen == [(Context(given, target, None, program), 2)] * 2, "once, and once more in float64"
    drop_one().run(program)
    assert seen[-1] == (Context(), 1)


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

    with pytest.raises(TypeError, match=r"'target' keyword-only.*\(program, context, \*, …\)"):

        @graph_pass
        def other(program, context, target, *, limit: int = 3):
            """Do."""

    with pytest.raises(TypeError, match="has no type"):

        @graph_pass
        def untyped(program, *, limit=3):
            """Do."""


def test_inputs_of_another_structure_are_refused(program):
    with pytest.raises(UsageError, match=r"expected \(x: f32\[batch,4\]\) -> "):
        program(torch.ones(2, 4), torch.ones(2, 4))


def _pass_of(function):
    """A pass that does one thing to the program."""

    @graph_pass
    def wrong(program):
        function(program)

    return wrong()


def test_a_copy_shares_nothing_that_can_be_changed(program):
    program.inputs()[0].meta["notes"] = ["one"]
    twin = program.copy()
    twin.args[0].mul_(3)
    twin.ranges.clear()
    twin.inputs()[0].meta["notes"].append("two")
    assert not torch.equal(twin.args[0], program.args[0])
    assert program.ranges
    assert program.inputs()[0].meta["notes"] == ["one"]


def test_nan_in_an_example_or_a_weight_is_no_change():
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.bias, math.nan)
    program = capture(model, (torch.tensor([[math.nan, 1.0]]),))
    assert not Pipeline.parse("drop_noop").run(program, watchers=()).steps[0].changed


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda p: p.ranges.clear(), "program.ranges"),
        (lambda p: p.args[0].mul_(3), "program.args"),
        (lambda p: setattr(p, "args", ()), "program.args"),
        (lambda p: p.kwargs.update(more=1), "program.kwargs"),
        (lambda p: setattr(p, "notes", ("all is well",)), "program.notes"),
        (lambda p: setattr(p, "history", ("quantize",)), "program.history"),
        (lambda p: p.inputs()[0].meta.clear(), "node.meta of input x"),
    ],
)
@pytest.mark.parametrize("watchers", [None, ()])
def test_what_the_capture_knows_may_not_be_changed(program, change, what, watchers):
    before = (program.text(), program.ranges, program.args)
    with pytest.raises(VerifyError, match=rf"in 'wrong' \(step 2 of 2.*the pass changed {what}"):
        Pipeline.of(double_neg(), _pass_of(change)).run(program, watchers=watchers)
    assert (program.text(), program.ranges, program.args) == before


def test_types_that_a_pass_takes_away_are_derived_again():
    on = parse_program('%x : f32[batch,4]; %w = param "w" : f32[3,4]; %y = aten.linear(%x, %w)')
    clear = _pass_of(lambda p: [n.meta.clear() for n in p.graph.nodes if n.op != "placeholder"])
    outcome = Pipeline.of(clear, double_neg()).run(on)
    assert outcome.program.text() == on.text()
    assert outcome.steps[1].cost.macs == 12


def test_an_error_of_a_watcher_names_the_step(program):
    def watch(step, program, result):
        raise ValueError("no room")

    with pytest.raises(PassError, match=r"in 'double_neg' \(step 1 of 1\): ValueError: no room$"):
        Pipeline.of(double_neg()).run(program, watchers=(watch,))


@pytest.mark.parametrize("name", ["kind", "tolerance", "name", "run", "steps", "options", "function"])
def test_an_option_may_not_hide_what_a_pass_is_asked_for(name):
    scope = {"graph_pass": graph_pass}
    with pytest.raises(TypeError, match=f"f: an option may not be called {name!r}"):
        exec(f"@graph_pass\ndef f(program, *, {name}: str = 'approx'): ...", scope)
    with pytest.raises(TypeError, match=f"Mine: an option may not be called {name!r}"):
        type("Mine", (Pass,), {"__annotations__": {name: "str"}, name: "approx"})


def test_a_pass_class_sets_its_attributes():
    @dataclass(frozen=True)
    class mine(Pass):
        name: ClassVar[str] = "mine"
        kind = "approx"
        limit: int = 3

    assert str(mine(limit=4)) == "mine(limit=4)"


def _replace_relu(make):
    def change(program):
        node = next(program.find("aten.relu"))
        with program.graph.inserting_after(node):
            new = make(program, node.args[0])
        program.replace(node, new)

    return change


def _add_module(program, operand):
    program.module.add_module("act", torch.nn.PReLU())
    return program.graph.call_module("act", (operand,))


@pytest.mark.parametrize(
    ("make", "called", "instead"),
    [
        (lambda p, x: p.graph.call_function(torch.relu, (x,)), "Python function relu", "torch.ops.aten.relu.default"),
        (lambda p, x: p.graph.call_function(torch.add, (x, x)), "Python function add", "torch.ops.aten.add.Tensor"),
        (lambda p, x: p.graph.call_function(torch.ops.aten.relu, (x,)), "torch.ops.aten.relu,", "aten.relu.default"),
        (lambda p, x: p.graph.call_function(lambda x: x, (x,)), "Python function <lambda>", "program.add_tensor"),
        (lambda p, x: p.graph.call_method("relu", (x,)), "call_method of 'relu'", "torch.ops.aten.relu.default"),
        (_add_module, "call_module of 'act'", "program.add_tensor"),
    ],
)
def test_a_graph_holds_calls_of_ops_alone(program, make, called, instead):
    with pytest.raises(PassError) as caught:
        Pipeline.of(_pass_of(_replace_relu(make))).run(program)
    message = str(caught.value)
    assert message.startswith("in 'wrong' (step 1 of 1): a graph holds calls of ops alone, not ")
    assert called in message.splitlines()[0]
    assert "Pass developer: write " in message
    assert caught.value.way_out.endswith(instead)
    assert caught.value.node.startswith("%")


def test_the_constants_of_a_branch_stay():
    class Branches(torch.nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: x * torch.tensor(2.0), lambda x: x + 1, (x,))

    on = capture(Branches(), (torch.ones(2, 4),), dynamic=None)
    outcome = Pipeline.of(double_neg(), double_neg()).run(on)
    assert torch.equal(outcome.program(*on.args), on(*on.args))


class OwnText(FxoptError):
    """An error whose message cannot be set from outside."""

    def __str__(self):
        return "mine"


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("error", "seen", "message"),
    [
        (UsageError("no"), UsageError, ": no$"),
        (UnknownNameError("op", "a", ["b"]), UnknownNameError, "unknown op 'a'"),
        (OwnText(), PassError, "OwnText: mine"),
        (NoText(), PassCrashError, "NoText: .its message cannot be shown"),
        (SystemExit(3), PassCrashError, "SystemExit: 3"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_whatever_a_pass_raises_names_it_and_keeps_its_exit_code(program, error, seen, message):
    with pytest.raises(seen, match=message) as caught:
        Pipeline.of(_pass_of(lambda program: _raise(error))).run(program)
    assert type(caught.value) is seen
    if seen is not KeyboardInterrupt:
        assert str(caught.value).startswith("in 'wrong' (step 1 of 1): ")
        assert caught.value.exit_code == seen.exit_code


def test_a_pass_of_several_that_fails_is_named(program):
    @graph_pass
    def several() -> tuple[Pass, ...]:
        sys.exit("no")

    with pytest.raises(PassError, match="in 'several': SystemExit: no"):
        Pipeline.of(several()).run(program)


@pytest.mark.parametrize("text", [3, None, [drop_second_relu()], [None], b"drop_noop"])
def test_text_is_asked_for_where_a_pipeline_is_read(text):
    with pytest.raises(UsageError, match="a pipeline is read from text"):
        Pipeline.parse(text)


@pytest.mark.parametrize("value", [drop_second_relu, "drop_noop", None])
def test_pass_values_are_asked_for_where_a_pipeline_is_made(value):
    with pytest.raises(UsageError, match="a pipeline is made of pass values"):
        Pipeline.of(value)


def test_the_default_measures_an_approximate_step_on_the_data_as_a_build_does(tmp_path):
    from fxopt.workload import find_workload

    recipe = fxopt.Recipe("digits", ("fold_batch_norm", "zero_channels(ratio=0.1)"), "eager")
    report = fxopt.build(recipe, tmp_path / "out", measure=False, cache=False)
    workload = find_workload("digits")
    outcome = Pipeline.parse(recipe.passes).run(workload.capture(), workload=workload)
    found = outcome.steps[-1].findings
    assert (found.sqnr_db, found.metric) == (report.steps[-1].sqnr_db, report.steps[-1].metric)
    assert found.metric is not None


def test_an_approximate_step_that_is_measured_on_data_may_not_make_nan():
    from fxopt.testing import small_workload

    on = parse_program(WEIGHED)

    @graph_pass(kind="approx")
    def spoil(program):
        program.set_tensor("w", program.tensors()["w"].detach() / 0)

    with pytest.raises(VerifyError, match="output 0 is no longer finite"):
        Pipeline.of(spoil()).run(on, workload=small_workload(on))
