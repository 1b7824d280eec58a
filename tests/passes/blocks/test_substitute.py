"""Blocks exchanged: what is asked for is there, what is measured is what it is, and what cannot be is said."""

import math

import pytest
import torch
from cases.block_models import Attention, SqueezeExcite, captured, seeded
from torch import nn

import fxopt
from fxopt import Pipeline, block_entry, registry
from fxopt.backend import find_backend
from fxopt.errors import BudgetError, DataError, OptionError, PassError, UsageError
from fxopt.ir.cost import cost
from fxopt.ir.op_table import find_quantized
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.blocks.candidates import library
from fxopt.passes.blocks.find_blocks import find_blocks
from fxopt.passes.blocks.library import Library
from fxopt.passes.blocks.planner import Planner
from fxopt.passes.blocks.substitute import substitute
from fxopt.passes.blocks.teacher import Teacher
from fxopt.target import find_target
from fxopt.testing import small_workload


def convnet():
    """Two residual blocks between a first convolution and a linear."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))

        def forward(self, x):
            return torch.relu(x + self.second(self.first(x)))

    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            Residual(),
            Residual(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    )
    return captured(net, 2, 3, 6, 6)


def run(program, data=True, **options):
    workload = small_workload(program) if data else None
    outcome = Pipeline.of(substitute(**options)).run(program, workload=workload)
    return outcome.program, outcome.steps[0]


def test_what_is_asked_for_is_in_its_place_and_its_errors_are_measured():
    program = convnet()
    after, step = run(program, choice=("2.first=depthwise_pointwise(terms=2)", "3=off"))
    assert not any(name.startswith("3.") for name in after.tensors())
    assert sum(name.startswith("2.first.0.weight") for name in after.tensors()) == 2
    figures = {m.of: m.value for m in step.measurements}
    x = [args[0] for args in small_workload(program).calibration(256, "test")]
    want = min(sqnr([program(v)], [after(v)]) for v in x)
    assert figures["the outputs"] == pytest.approx(want, abs=1e-3)
    assert set(figures) == {"2.first, its end", "3, its end", "the outputs"}
    assert step.findings.sqnr_db < math.inf


def test_without_data_a_choice_that_needs_none_is_made():
    after, step = run(convnet(), data=False, choice=("3.*=low_rank_chain(form='spatial', share=0.5)",))
    assert cost(after).macs < cost(convnet()).macs
    assert [m.of for m in step.measurements][-1] == "the outputs"
    _, step = run(convnet(), data=False, choice=("2.first=smaller_kernel(size=1)",))
    assert "2.first is not smaller_kernel(size=1): it needs samples" in step.skips[-1].reason


def test_a_budget_of_macs_is_met_and_the_report_says_what_became_of_each_block():
    program = convnet()
    after, step = run(program, macs=0.4, entries=("low_rank_chain", "narrower", "off"))
    assert cost(after).macs <= 0.4 * cost(program).macs
    assert step.choices
    taken = [m for m in step.measurements if "taken" in m.of]
    (share,) = [m for m in taken if m.figure == "share of the MACs"]
    assert share.value == pytest.approx(cost(after).macs / cost(program).macs)
    assert share.predicted == pytest.approx(share.value)
    raced = {m.of: m.value for m in step.measurements if m.figure == "loss"}
    (loss,) = [m.value for m in taken if m.figure == "loss"]
    assert loss == pytest.approx(min(raced.values()), abs=1e-4)


def test_a_budget_that_nothing_reaches_is_refused_with_how_near_it_came():
    with pytest.raises(BudgetError, match=r"comes? down to 0\.\d+ of the whole.*the budget is 0\.001"):
        run(convnet(), macs=0.001, entries=("off",))


def test_what_stays_out_of_a_choice_stays_as_it_is():
    program = convnet()
    after, _ = run(program, keep=("2", "0"), only=("2", "3"), entries=("off", "grouped_shuffle"))
    before, now = program.tensors(), after.tensors()
    assert all(torch.equal(now[n], t) for n, t in before.items() if not n.startswith("3."))
    assert cost(after).macs < cost(program).macs


def test_a_budget_of_latency_is_of_what_was_measured_in_the_net():
    program = captured(seeded(nn.Linear, 1024, 1024), 2, 1024)
    outcome = Pipeline.of(substitute(latency="0.9x", entries=("low_rank_chain",))).run(
        program, workload=small_workload(program), backend=find_backend("eager"), target=find_target("host")
    )
    (share,) = [m for m in outcome.steps[0].measurements if m.figure == "share of the latency" and "taken" in m.of]
    assert share.value <= 0.9
    assert 0 < share.predicted < 1


def planner_of(real):
    """A planner of low-rank forms, whose predicted saving of MACs is ``real(saving)`` as measured; and how many it asks for."""
    program = convnet()
    teacher = Teacher.of_data(program, small_workload(program), 8, "test")
    own = Library(program, teacher, None, "test", has_data=True)
    candidates = own.scored(own.built(find_blocks(program).blocks, library(("low_rank_chain",)), timed=False))
    dense = cost(program).macs
    asked = []

    def costs(choices):
        asked.append(len(choices))
        return [1 - real(-sum(c.macs for c in chosen) / dense) for chosen in choices]

    return Planner(program, teacher, candidates, lambda c: c.macs / dense, costs), asked


def test_a_latency_model_that_is_wrong_is_corrected_by_what_was_built():
    planner, asked = planner_of(lambda saving: 0.4 * saving)
    best = planner.run(0.7)
    assert all(raced.cost > 0.7 for raced in planner.raced[: asked[0]])
    assert best.cost <= 0.7
    corrected = planner.raced[asked[0] :]
    assert corrected
    assert all(abs(raced.predicted_cost / raced.cost - 1) < 0.1 for raced in corrected)


def test_it_is_corrected_until_a_choice_keeps_the_budget():
    """The more is exchanged, the less of it is saved: the median of what was built is behind each time."""
    planner, _ = planner_of(lambda saving: min(0.9 * saving, 0.15 + 0.25 * saving))
    assert planner.run(0.7).cost <= 0.7


def test_the_cheapest_choice_is_built_before_a_budget_is_given_up():
    """Little is saved unless much is exchanged, so that by what was built nothing would hold the budget."""
    planner, _ = planner_of(lambda saving: 0.1 * saving if saving < 0.8 else saving)
    assert planner.run(0.3).cost <= 0.3


def test_a_target_that_cannot_be_timed_is_refused_with_the_way_out():
    program = captured(nn.Linear(8, 8), 2, 8)
    with pytest.raises(UsageError, match="MACs"):
        Pipeline.of(substitute(latency="0.5x")).run(
            program,
            workload=small_workload(program),
            backend=find_backend("eager"),
            target=find_target("raspberry_pi_4"),
        )


def test_training_brings_a_block_nearer_and_goes_on_from_a_checkpoint(tmp_path):
    program = convnet()
    how = {"choice": ("2.first=depthwise_pointwise",)}
    _, start = run(program, **how)
    trained, step = run(program, epochs=40, checkpoint=str(tmp_path), **how)
    end = "2.first, its end"
    before, after = ({m.of: m.value for m in s.measurements}[end] for s in (start, step))
    assert after > before + 0.5
    assert list(tmp_path.iterdir())
    again, _ = run(program, epochs=40, checkpoint=str(tmp_path), **how)
    assert again.fingerprint() == trained.fingerprint()


def test_an_entry_whose_loss_is_not_finite_is_out_and_reported():
    @block_entry("unit")
    def exploding(block, samples):
        """A block that a gradient makes infinite."""
        (result,) = block.outputs()
        huge = block.call(torch.ops.aten.mul.Scalar, result, 1e30, like=result)
        block.graph.output_node().replace_input_with(result, huge)

    with registry.overridden("block", "exploding", exploding):
        after, step = run(convnet(), choice=("2.first=exploding",), epochs=1)
    assert after.fingerprint() == fxopt.Pipeline.parse("functionalize_writes").run(convnet()).program.fingerprint()
    assert any("2.first is not exploding: " in skip.reason and "loss" in skip.reason for skip in step.skips)


def test_an_entry_with_another_interface_is_refused():
    @block_entry("unit")
    def halving(block, samples):
        """A block that gives half of its rows."""
        (result,) = block.outputs()
        half = block.call(torch.ops.aten.slice.Tensor, result, 1, 0, 2, like=result)
        block.graph.output_node().replace_input_with(result, half)

    with registry.overridden("block", "halving", halving), pytest.raises(PassError, match="another interface"):
        run(convnet(), choice=("2.first=halving",))


def test_attention_and_gates_of_a_whole_net():
    after, _ = run(captured(seeded(Attention), 2, 5, 8), choice=("*=average_attention",))
    assert "scaled_dot_product" not in after.text()
    after, _ = run(captured(seeded(SqueezeExcite), 2, 3, 6, 6), choice=("*=fixed_gate",))
    assert "sigmoid" not in after.text()
    assert not any(name.startswith("up") for name in after.tensors())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"choice": ("2.first",)}, OptionError, "PATTERN=ENTRY"),
        ({"choice": ("nowhere=off",)}, OptionError, "nowhere"),
        ({"choice": ("2.first=off",)}, OptionError, "names no block that can become off: a branch"),
        ({"choice": ("2=off",), "macs": 0.5}, OptionError, "one of choice="),
        ({"keep": ("nowhere",)}, OptionError, "nowhere"),
        ({"latency": "half"}, OptionError, "'0.5x' for half"),
        ({"data": False}, DataError, "needs data"),
        ({"data": False, "choice": ("2=off",), "epochs": 1}, DataError, "needs data"),
    ],
)
def test_what_cannot_be_is_said(options, error, words):
    with pytest.raises(error, match=words):
        run(convnet(), **options)


def test_a_quantized_program_is_refused_and_one_without_blocks_stays():
    program = captured(nn.Linear(8, 8), 2, 8)
    quantized = Pipeline.parse("quantize").run(program, workload=small_workload(program)).program
    with pytest.raises(PassError, match="quantize after"):
        run(quantized)
    plain = captured(nn.ReLU(), 2, 8)
    after, step = run(plain)
    assert after.fingerprint() == plain.fingerprint()
    assert "no block" in step.skips[0].reason


def test_what_comes_out_is_quantized_pruned_and_saved_like_any_program(tmp_path):
    program = convnet()
    workload = small_workload(program)
    passes = "substitute(macs=0.6, entries=('low_rank_chain', 'narrower')), prune_channels(ratio=0.25), fold_batch_norm, quantize"
    outcome = Pipeline.parse(passes).run(program, workload=workload)
    assert find_quantized(outcome.program.graph) is not None
    assert cost(outcome.program).macs < 0.6 * cost(program).macs
    fxopt.save_program(outcome.program, tmp_path / "small.pt2")
    assert fxopt.load_program(tmp_path / "small.pt2").fingerprint()
