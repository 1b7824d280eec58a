"""The debugger names the layer in which a fault was planted first, and says of the others that they pass it on."""

import json

import numpy
import pytest
import torch
from torch import nn

import fxopt
from fxopt.driver.build import build
from fxopt.driver.debug import compare_values, debug
from fxopt.driver.layer_effects import alone_db
from fxopt.driver.layer_errors import BINS, Held, Observed
from fxopt.driver.lower import legalized
from fxopt.driver.plan import resolve
from fxopt.driver.recipe import Recipe
from fxopt.errors import UsageError
from fxopt.pass_manager.context import Context
from fxopt.passes.quant.mixed.quant import quant
from fxopt.target import find_target

FLOAT, QUANTIZED = ("fold_batch_norm",), ("fold_batch_norm", "quantize")
LAYERS = ("conv2d", "conv2d_1", "conv2d_2", "linear")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    place = tmp_path_factory.mktemp("debug")
    torch.manual_seed(0)

    def block(before, after):
        return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]

    layers = [*block(3, 8), *block(8, 16), nn.MaxPool2d(2), *block(16, 16), nn.Flatten(), nn.Linear(16 * 16, 5)]
    net = nn.Sequential(*layers).train()
    images = torch.randn(64, 3, 8, 8)
    net(images)
    fxopt.save_program(fxopt.capture(net.eval(), (images[:1],)), place / "net.pt2")
    numpy.save(place / "x.npy", images.numpy())
    return place


def _plan(place, backend, passes=QUANTIZED):
    recipe = Recipe(str(place / "net.pt2"), passes, backend, calibration=str(place / "x.npy"))
    return resolve(recipe).capture()


def _plan_context(place, backend):
    plan, _ = _plan(place, backend)
    return Context(plan.workload, plan.target, plan.backend)


def _reads_of(program, layer):
    return next(node for node in program.graph.nodes if node.name == layer)


def _double_weight_scale(program, layer):
    weight = _reads_of(program, layer).args[1]
    program.set_tensor(str(weight.args[1].target), program.tensor(weight.args[1]) * 2)


def _quantized_behind(program, layer):
    node = _reads_of(program, layer)
    while "quantize_per_tensor" not in str(node.target):
        node = next(iter(node.users))
    return node


def _saturate(program, layer):
    quantize = _quantized_behind(program, layer)
    for node in (quantize, *quantize.users):
        node.args = (node.args[0], node.args[1] / 6, *node.args[2:])


def _shift_zero_point(program, layer):
    quantize = _quantized_behind(program, layer)
    quantize.args = (*quantize.args[:2], quantize.args[2] + 50, *quantize.args[3:])


FAULTS = [_double_weight_scale, _saturate, _shift_zero_point]
CASES = [
    (backend, fault, layer) for backend in ("onnx", "openvino", "tvm") for fault in FAULTS for layer in LAYERS[1:3]
]


@pytest.mark.parametrize(
    ("backend", "plant", "layer"), [CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:])]
)
def test_a_planted_fault_is_first(recorded, tmp_path, backend, plant, layer):
    plan, program = _plan(recorded, backend)
    if reason := plan.backend.missing():
        pytest.skip(reason)
    plain = plan.rewrite(program, plan.backend, (), fxopt.Pipeline.parse(FLOAT)).program
    faulty = plan.rewrite(program, plan.backend, ()).program.copy()
    plant(faulty, layer)
    faulty.module.recompile()
    lowered, built = plan.lower(faulty, plan.backend, tmp_path / "out")
    found = compare_values(legalized(plain, plan.backend, plan.target), lowered, built, plan, 16)
    first, second = found.layers[0], next(row for row in found.layers if row.layer != layer)
    assert first.layer == layer
    assert first.makes
    assert second.made_db > first.made_db + 6
    if plant is _saturate:
        assert first.clipped > 0.01
        assert (first.histogram[0] + first.histogram[-1]) / sum(first.histogram) == pytest.approx(first.clipped)


@pytest.mark.slow
def test_a_build_without_a_fault_makes_little_error_anywhere_and_adds_up(recorded, tmp_path):
    recipe = Recipe(str(recorded / "net.pt2"), QUANTIZED, "onnx", calibration=str(recorded / "x.npy"))
    build(recipe, tmp_path / "out", measure=False)
    found = debug(tmp_path / "out")
    assert found.examples == 16, "a quarter of the recorded images is for validation"
    assert {row.layer for row in found.layers} >= set(LAYERS)
    assert all(row.made_db > 20 for row in found.layers)
    assert all(row.cosine > 0.99 for row in found.layers)
    assert [row.alone_db for row in found.layers] == sorted(row.alone_db for row in found.layers)
    assert all(row.alone_db > found.out_db for row in found.layers), "one error makes less noise than all"
    ahead = quant(fxopt.load_program(recorded / "net.pt2"), _plan_context(recorded, "onnx"))
    assert [row.name for row in ahead.layers] == [row.name for row in found.layers]
    assert [row.alone_db for row in ahead.layers] == pytest.approx([row.alone_db for row in found.layers])
    assert "onnx" in ahead.values_of
    assert "onnx" in found.values_of
    json.dumps(found.to_dict())
    worst = next(row for row in found.layers if row.layer in LAYERS)
    assert worst.layer in {remedy.layer for remedy in found.remedies}
    best = found.remedies[0]
    assert best.after_db == max(remedy.after_db for remedy in found.remedies) > best.before_db
    assert best.before_db == pytest.approx(found.out_db, abs=1), (
        "the artifact's outputs are those of the program in torch"
    )
    macs = {"conv2d": 3 * 8 * 9 * 64, "conv2d_1": 8 * 16 * 9 * 64, "conv2d_2": 16 * 16 * 9 * 16, "linear": 16 * 16 * 5}
    assert best.macs_share == pytest.approx(macs[best.layer] / sum(macs.values()))
    again = Recipe(str(recorded / "net.pt2"), ("fold_batch_norm", best.option), "onnx", calibration=recipe.calibration)
    build(again, tmp_path / "again", measure=False)
    assert debug(tmp_path / "again", remedies=0).out_db == pytest.approx(best.after_db, abs=1)
    broken = tmp_path / "out" / "model.onnx"
    _double_a_stored_scale(tmp_path / "out", broken)
    first = debug(tmp_path / "out", remedies=0).layers[0]
    assert first.layer == "conv2d_1"
    assert first.made_db < 10


def test_an_error_by_itself_reaches_the_outputs_as_linear_algebra_has_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)).eval()
    x, error = torch.randn(7, 4), torch.randn(7, 6) / 100
    program = fxopt.capture(net, (x,))
    first, second, third = [node.name for node in program.find("aten.linear")]
    errors = {first: error, second: torch.zeros(7, 5), third: torch.ones(7, 3)}
    found = alone_db(program, [x], errors)
    noise = error.double() @ net[1].weight.double().T @ net[2].weight.double().T
    signal = net(x).double().square().sum()
    assert found[first] == pytest.approx(10 * torch.log10(signal / noise.square().sum()).item(), abs=1e-3)
    assert found[second] == float("inf")
    assert found[third] == pytest.approx(10 * torch.log10(signal / 21).item(), abs=1e-3)


def test_what_cannot_run_here_is_looked_at_in_torch_and_that_is_said(recorded):
    plan, program = _plan(recorded, "tvm")
    if reason := plan.backend.missing():
        pytest.skip(reason)
    found = quant(program, Context(plan.workload, find_target("cortex_m55"), plan.backend))
    assert "in torch" in found.values_of
    assert {row.layer for row in found.layers} >= set(LAYERS)
    assert all(remedy.slower is None for remedy in found.remedies)


def test_values_are_counted_in_the_parts_of_the_range_of_the_integers():
    value = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 2
    value[0, :3] = torch.tensor([-1.0, 1.5, float("nan")])  # the ends are inside, and what is no number is nowhere
    seen = Observed()
    for batch in value.split(1):
        seen.add(batch, batch, Held(batch, (-1.0, 1.5)))
    inside, _ = numpy.histogram(value[~value.isnan()].numpy(), BINS, (-1.0, 1.5))
    assert seen.histogram == [int((value < -1).sum()), *inside, int((value > 1.5).sum())]


def _double_a_stored_scale(folder, path):
    """A fault in the file itself, which the program does not have."""
    import onnx

    from fxopt.runtime.staging import sha256

    model = onnx.load(path)
    made = {node.output[0]: node for node in model.graph.node}
    convolution = [node for node in model.graph.node if node.op_type == "Conv"][1]
    scale = made[convolution.input[1]].input[1]
    (stored,) = [tensor for tensor in model.graph.initializer if tensor.name == scale]
    stored.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(stored) * 2, scale))
    onnx.save(model, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = sha256(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_pruned_program_is_held_against_the_model_channel_by_channel(recorded, tmp_path):
    passes = ("fold_batch_norm", "prune_channels(ratio=0.25, by='l1')")
    recipe = Recipe(str(recorded / "net.pt2"), passes, "eager", calibration=str(recorded / "x.npy"))
    build(recipe, tmp_path / "out", measure=False)
    found = debug(tmp_path / "out")
    assert found.against == "the model as its exact passes alone leave it"
    rows = {row.layer: row for row in found.layers}
    assert set(rows) == set(LAYERS)
    assert rows["conv2d"].makes, "nothing before it could be pruned"
    assert rows["conv2d"].out_db == pytest.approx(rows["conv2d"].made_db)
    assert not rows["linear"].makes, "its outputs are all there: the error came with its inputs"
    assert rows["linear"].made_db > 60


def test_a_recipe_that_gives_another_program_today_is_refused(recorded, tmp_path):
    recipe = Recipe(str(recorded / "net.pt2"), QUANTIZED, "eager", calibration=str(recorded / "x.npy"))
    build(recipe, tmp_path / "out", measure=False)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (tmp_path / "out" / "report.json").write_text(json.dumps(report | {"program": "0" * 64}))
    with pytest.raises(UsageError, match="another program today"):
        debug(tmp_path / "out")
