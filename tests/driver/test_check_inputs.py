"""What an artifact is compared on: data of a quantized program, in two batch sizes; noise where there is none that fits."""

import pytest
import torch
from torch import nn

import fxopt
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.check_inputs import check_inputs
from fxopt.workload import Workload


class Bright:
    """Images around 100, of which random inputs like the example have none."""

    metric = "none"

    def __init__(self, size=8):
        self.size = size

    def batches(self, split, *, batch_size, seed=None):
        yield (100 + torch.arange(batch_size * self.size**2.0).view(batch_size, 1, self.size, self.size) % 7,), None

    def evaluate(self, model, split="test"):
        return 1.0


@pytest.fixture(scope="module", params=["batch", None], ids=["dynamic", "fixed"])
def quantized(request):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    inputs = (torch.randn(2, 1, 8, 8),)
    program = fxopt.capture(net, inputs, dynamic=request.param)
    workload = Workload(name="bright", model=lambda: net, inputs=lambda: (inputs, {}), data=Bright())
    return program, fxopt.Pipeline.parse("quantize").run(program, workload=workload).program


def _sizes(inputs):
    return [[len(leaf) for leaf in leaves] for leaves in inputs]


def test_a_quantized_program_is_compared_on_data_of_the_batch_sizes_that_it_takes(quantized):
    program, integers = quantized
    found = check_inputs(integers, Bright())
    assert _sizes(found) == ([[2]] if program.ranges == {} else [[1], [3]])
    assert all(leaf.min() >= 100 for leaves in found for leaf in leaves)


def test_without_data_that_fits_and_in_float_it_is_the_example_and_noise(quantized):
    program, integers = quantized
    for some, data in ((program, Bright()), (integers, None), (integers, Bright(size=9))):
        found = check_inputs(some, data)
        assert torch.equal(found[0][0], program.example_leaves()[0])
        assert all(leaf.max() < 50 for leaves in found for leaf in leaves)


def test_rows_of_different_sizes_are_not_cut_apart():
    """Edges name nodes: the first edge of a graph without its nodes is an index out of range."""

    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x, edges):
            return torch.zeros_like(x).index_add(0, edges, self.lin(x)[edges])

    class Graphs(Bright):
        def batches(self, split, *, batch_size, seed=None):
            yield (torch.randn(5, 4), torch.tensor([0, 4, 2, 3, 4, 1, 0])), None

    inputs = (torch.randn(6, 4), torch.tensor([0, 5, 2]))
    sizes = ({0: torch.export.Dim("nodes", min=2)}, {0: torch.export.Dim("edges", min=2)})
    program = fxopt.capture(Sums(), inputs, dynamic=sizes)
    workload = Workload(name="graphs", model=Sums, inputs=lambda: (inputs, {}), data=Graphs())
    integers = fxopt.Pipeline.parse("quantize").run(program, workload=workload).program
    assert _sizes(check_inputs(integers, Graphs())) == [[5, 7]]


def test_an_artifact_is_not_refused_for_noise_far_outside_the_calibrated_range(tmp_path):
    """OpenVINO folds a quantizer into the next and leaves out a saturation: digits in int8 was refused on random pixels."""
    pytest.importorskip("openvino")
    pytest.importorskip("sklearn")
    from fxopt.driver.build import build
    from fxopt.driver.recipe import Recipe

    report = build(Recipe("digits", ("quantize",), "openvino"), tmp_path / "out", measure=False)
    assert report.agreement.sqnr_db > 30


def test_the_data_are_what_an_artifact_agrees_on(quantized):
    program, integers = quantized
    fidelity = Fidelity(integers, data=Bright())
    assert fidelity.sqnr_to(integers) == float("inf")
    assert fidelity.sqnr_to(program) > Fidelity(integers).sqnr_to(program) + 10
