"""Recorded inputs as a workload's data."""

import numpy as np
import pytest
import torch
from torch import nn

from fxopt import Pipeline, Workload, capture
from fxopt.driver.check_inputs import check_inputs
from fxopt.errors import DataError, RecipeError
from fxopt.pass_manager.instruments import MetricWatcher
from fxopt.pass_manager.verify import Verify
from fxopt.workload.batching import fixed_batch, in_batches
from fxopt.workload.recorded import RecordedInputs, read_arrays


class _Two(nn.Module):
    def forward(self, left, right):
        return left @ right.mT


PROGRAM = capture(_Two(), (torch.randn(2, 3, 4), torch.randn(2, 5, 4)))
ARRAYS = {
    name: np.random.default_rng(0).standard_normal((12, n, 4), np.float32) for name, n in (("left", 3), ("right", 5))
}


def test_arrays_go_to_the_inputs_of_their_names_and_every_example_to_one_split(tmp_path):
    np.savez(tmp_path / "x.npz", **dict(reversed(ARRAYS.items())))
    data = RecordedInputs(read_arrays(tmp_path / "x.npz"), PROGRAM)
    seen = [args for split in ("train", "validation", "test") for args, _ in data.batches(split, batch_size=4)]
    assert np.array_equal(torch.cat([left for left, _ in seen]), ARRAYS["left"])
    assert np.array_equal(torch.cat([right for _, right in seen]), ARRAYS["right"])
    assert [len(left) for left, _ in seen] == [4, 2, 3, 3]


def test_a_seed_shuffles_both_inputs_alike():
    data = RecordedInputs(ARRAYS, PROGRAM)
    ((left, right), _) = next(data.batches("train", batch_size=6, seed=1))
    order = [next(i for i in range(6) if np.array_equal(row, ARRAYS["left"][i])) for row in left]
    assert order != sorted(order)
    assert np.array_equal(right, ARRAYS["right"][order])


def test_agreement_is_the_share_of_the_signal_that_is_not_noise():
    data = RecordedInputs(ARRAYS, PROGRAM)
    assert data.evaluate(PROGRAM) == data.metric_of_original
    assert data.evaluate(lambda *args: PROGRAM(*args) * 0.9) == pytest.approx(1 - 0.1**2)
    assert data.evaluate(lambda *args: PROGRAM(*args).numpy() * -5) == 0


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"": ARRAYS["left"]}, "the model takes"),
        ({"left": ARRAYS["left"], "write": ARRAYS["right"]}, r"\['left', 'write'\]"),
        ({"left": ARRAYS["left"], "right": ARRAYS["right"][:3]}, "same number"),
        ({"left": ARRAYS["left"][:0], "right": ARRAYS["right"][:0]}, "one or more"),
    ],
)
def test_arrays_that_are_not_the_inputs_are_refused(arrays, words):
    with pytest.raises(DataError, match=words):
        RecordedInputs(arrays, PROGRAM)


def test_a_file_that_cannot_be_read_is_refused_and_never_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "short.npy", ARRAYS["left"])
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:200])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("objects.npy", "short.npy", "empty.npz", "absent.npy"):
        with pytest.raises(RecipeError, match=name):
            read_arrays(tmp_path / name)


def test_a_fixed_batch_takes_any_number_of_examples():
    fixed = capture(_Two(), (torch.randn(5, 3, 4), torch.randn(5, 5, 4)), dynamic=None)
    assert (fixed_batch(fixed), fixed_batch(PROGRAM)) == (5, None)
    left, right = (torch.from_numpy(ARRAYS[name]) for name in ("left", "right"))
    assert torch.allclose(in_batches(fixed, 5)(left, right), left @ right.mT)
    assert torch.equal(in_batches(PROGRAM, None)(left, right), PROGRAM(left, right))
    data = RecordedInputs(ARRAYS, fixed)
    assert data.evaluate(in_batches(fixed, 5)) == 1, "the original takes one size alone, the splits have others"


class _Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, *, bias, doubled=False):
        hidden = (self.first(x) + bias).relu()
        return {"y": self.second(hidden * 2 if doubled else hidden)}


@pytest.mark.parametrize("dynamic", ["batch", None])
def test_keywords_and_numbers_are_calibrated_with_too(dynamic):
    example = {"bias": torch.randn(2, 8), "doubled": True}
    program = capture(_Keywords().eval(), (torch.randn(2, 4),), example, dynamic=dynamic)
    draw = np.random.default_rng(0).standard_normal
    data = RecordedInputs({"x": draw((13, 4), np.float32), "bias": draw((13, 8), np.float32)}, program)
    workload = Workload(name="recorded", model=_Keywords, inputs=lambda: (program.args, program.kwargs), data=data)
    outcome = Pipeline.parse("quantize").run(program, watchers=(MetricWatcher(data), Verify()), workload=workload)
    assert any("quantize_per_tensor" in str(node.target) for node in outcome.program.graph.nodes)
    assert 0.95 < outcome.steps[-1].findings.metric < 1
    assert data.evaluate(in_batches(program, fixed_batch(program))) == 1


def test_what_the_recorded_arrays_lack_is_said():
    program = capture(_Keywords().eval(), (torch.randn(2, 4),), {"bias": torch.randn(2, 8)})
    with pytest.raises(DataError, match=r"holds \['x'\], the model takes \(x: .*bias: "):
        RecordedInputs({"x": np.zeros((3, 4), np.float32)}, program)


class _Graph(nn.Module):
    """Two layers that add up what neighbours say."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, edges):
        for layer in (self.first, self.second):
            x = layer(x.index_add(0, edges[1], x[edges[0]])).relu()
        return x


def _graphs(calls, nodes=6):
    draw = np.random.default_rng(0)
    return {
        "x": draw.standard_normal((calls, nodes, 4), np.float32),
        "edges": draw.integers(0, nodes, (calls, 2, 9)),
    }


def test_whole_calls_are_recorded_of_inputs_without_a_batch():
    arrays = _graphs(8)
    example = [torch.from_numpy(array[0]) for array in arrays.values()]
    program = capture(_Graph().eval(), tuple(example), dynamic={"x": {0: torch.export.Dim("nodes")}, "edges": None})
    data = RecordedInputs(arrays, program)
    seen = [args for args, _ in data.batches("train", batch_size=32)]
    assert [a.shape for args in seen for a in args] == [(6, 4), (2, 9)] * 4
    assert torch.equal(seen[3][1], torch.from_numpy(arrays["edges"][3]))
    workload = Workload(name="recorded", model=_Graph, inputs=lambda: (program.args, {}), data=data)
    outcome = Pipeline.parse("quantize").run(program, watchers=(MetricWatcher(data), Verify()), workload=workload)
    assert any("quantize_per_tensor" in str(node.target) for node in outcome.program.graph.nodes)
    assert 0.95 < outcome.steps[-1].findings.metric < 1
    assert data.evaluate(program) == 1
    for probe in check_inputs(outcome.program, data):  # fewer nodes would lack some that edges name
        outcome.program(*probe)


@pytest.mark.parametrize("dims", [("x", "edges"), ("edges",)], ids=str)
def test_examples_of_an_input_without_a_batch_are_refused(dims):
    arrays = _graphs(8)
    example = tuple(torch.from_numpy(array[0]) for array in arrays.values())
    program = capture(_Graph().eval(), example, dynamic={"x": {0: torch.export.Dim("nodes")}, "edges": None})
    fewer = {name: array[:, 0] if name in dims else array for name, array in arrays.items()}
    with pytest.raises(DataError, match=r"'edges' has no batch(.|\n)*record whole calls"):
        RecordedInputs(fewer, program)
