"""What a pass chose in the user's place is on its step, in the report, and in the table of several targets."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from fxopt import Program, Target, Workload, graph_pass
from fxopt.backends.eager import Eager
from fxopt.cli.render import difference_table, show_report
from fxopt.driver.build_targets import build_several
from fxopt.driver.recipe import Recipe
from fxopt.driver.report import StepReport
from fxopt.frontend.capture import capture
from fxopt.ir.parser import parse_program
from fxopt.ir.program import Choice
from fxopt.pass_manager.pipeline import Pipeline


@graph_pass
def swap_negation(program: Program, *, times: int = 1) -> None:
    """Write a negation anew."""
    for node in program.find("aten.neg"):
        program.replace(node, program.call(torch.ops.aten.mul.Scalar, node.args[0], -1, like=node))
    program.chose("times", times, "as the test wants it")


@graph_pass
def look(program: Program) -> None:
    """Leave all as it is."""


def test_a_choice_is_on_the_step_that_made_it_and_only_once():
    program = parse_program("%x : f32[2,3]; %y = aten.neg(%x)")
    outcome = Pipeline.of(swap_negation(times=2), look()).run(program)  # an exact pass is run twice: the proof
    assert outcome.steps[0].choices == [Choice("times", 2, "as the test wants it")]
    assert outcome.steps[1].choices == []
    (choice,) = StepReport.of(outcome.steps[0]).choices
    assert (choice.what, choice.value, choice.why) == ("times", 2, "as the test wants it")


def small_net() -> Workload:
    """Convolutions whose channels can be pruned, and split."""
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1)).eval()
    return Workload(name="small", model=lambda: net, inputs=lambda: ((torch.ones(1, 3, 12, 12),), {}))


@pytest.mark.parametrize("name", ["zero_channels", "prune_channels", "truncate_rank", "low_rank"])
def test_the_multiple_of_a_target_is_a_choice_that_the_pass_keeps_to(name):
    workload = small_net()
    args, _ = workload.inputs()
    program = capture(workload.model(), args)
    target = Target(name="board", triple="riscv64-linux-gnu", channel_multiple=8)

    def run(multiple):
        pipeline = Pipeline.parse(f"{name}(ratio=0.3, multiple={multiple!r})")
        return pipeline.run(program, target=target, backend=Eager(), workload=workload)

    chosen, given, without = map(run, ("target", 8, 1))
    assert chosen.steps[0].choices == [Choice("multiple", 8, "given by the target board")]
    assert chosen.program.fingerprint() == given.program.fingerprint() != without.program.fingerprint()
    assert given.steps[0].choices == [], "the user chose"


def test_the_table_of_several_targets_has_what_was_chosen_for_each(tmp_path):
    for name, multiple in (("narrow", 4), ("wide", 16)):
        text = f'triple = "riscv64-linux-gnu"\ncpu = "x"\nfeatures = []\ncores = 1\nchannel_multiple = {multiple}\n'
        (tmp_path / f"{name}.toml").write_text(text)
    recipe = Recipe("test_choices:small_net", ("prune_channels(ratio=0.3, multiple='target')",), "onnx")
    targets = [str(tmp_path / f"{name}.toml") for name in ("narrow", "wide")]
    reports = build_several(recipe, targets, tmp_path / "out", lambda name, report: None, measure=False)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(difference_table(reports))
    (row,) = (line for line in console.export_text().splitlines() if "multiple='target'): multiple" in line)
    assert "4, given by the target narrow" in row
    assert "16, given by the target wide" in row
    show_report(reports["wide"], console)
    assert "chose multiple = 16: given by the target wide" in console.export_text()
    show_report(reports["narrow"], console)
    assert "proved in float64 to 1e-09; stored weights to 3.8e-06" in console.export_text()
    (exact,) = (step for step in reports["narrow"].to_dict()["steps"] if step["kind"] == "exact" and step["changed"])
    assert (exact["tolerance"], exact["stored"], exact["proof"]) == (1e-9, "weights", "end to end")
