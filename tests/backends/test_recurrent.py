"""Recurrent layers on each backend: the runtime's own ops, held against torch; int8 against the formula of the codes."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.backends.onnx import Onnx
from fxopt.backends.openvino import Openvino
from fxopt.backends.tvm import Tvm
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.lower import lower
from fxopt.numerics.error_metrics import sqnr
from fxopt.runtime.artifact import model_bytes
from fxopt.target.detect import host

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:LSTM with projections")]

KINDS = {
    "lstm": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}, "LSTM"),
    "projected": (nn.LSTM, {"proj_size": 3, "bidirectional": True, "batch_first": True}, "LSTM"),
    "gru": (nn.GRU, {"batch_first": True, "bias": False, "bidirectional": True}, "GRU"),
    "rnn": (nn.RNN, {"batch_first": True, "num_layers": 2, "nonlinearity": "relu"}, "RNN"),
}


class States(nn.Module):
    """A recurrent layer with all that it gives."""

    def __init__(self, kind, options, units=7):
        super().__init__()
        torch.manual_seed(0)
        self.layer = kind(5, units, **options)

    def forward(self, x):
        y, last = self.layer(x)
        return y, *(last if isinstance(last, tuple) else (last,))


class Cells(nn.Module):
    """Single steps of each kind."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.LSTMCell(5, 6), nn.GRUCell(6, 4), nn.RNNCell(4, 3)

    def forward(self, x):
        h, c = self.first(x)
        return self.third(self.second(self.first(x + 1, (h, c))[0])), c


def built(program, backend, out):
    out.mkdir()
    legal, artifact = lower(program, backend, host(), out)
    Fidelity(legal).check(artifact)  # on two batches
    return artifact


@pytest.mark.parametrize(
    ("backend", "kind"),
    [*((Onnx(), kind) for kind in KINDS), (Openvino(), "gru"),
     *(pytest.param(Openvino(), kind, marks=pytest.mark.slow) for kind in KINDS if kind != "gru")],
    ids=str,
)  # fmt: skip
def test_a_layer_is_the_runtimes_own(backend, kind, tmp_path):
    layer, options, op = KINDS[kind]
    net, x = States(layer, options), torch.randn(2, 4, 5)
    artifact = built(capture(net, (x,)), backend, tmp_path / "out")
    for got, want in zip(artifact(x.numpy()), net(x), strict=True):
        assert np.allclose(got, want.detach().numpy(), atol=1e-5)
    nodes = artifact.manifest.facts["nodes"]
    if backend.name == "onnx":
        assert nodes[op] == options.get("num_layers", 1)
    assert "Loop" not in nodes


@pytest.mark.parametrize(
    ("kind", "units"),
    [*(pytest.param(kind, 40, marks=[pytest.mark.slow] * (kind != "lstm")) for kind in KINDS), ("gru", 7)],
)  # blocks and a part; a part alone
def test_tvm_loops_over_the_steps(kind, units, tmp_path):
    layer, options, _ = KINDS[kind]
    net, x = States(layer, options, units), torch.randn(3, 4, 5)  # a pair of examples, and one
    if kind == "lstm":
        nn.init.normal_(net.layer.weight_hh_l0, std=3.0)  # gates that are shut, where a sigmoid may lose its accuracy
    artifact = built(capture(net, (x,)), Tvm(database=""), tmp_path / "out")
    for batch in (x, x[:1], torch.randn(9, 4, 5)):
        for got, want in zip(artifact(batch.numpy()), net(batch), strict=True):
            assert np.allclose(got, want.detach().numpy(), atol=1e-5)


@pytest.mark.slow
def test_tvm_takes_any_number_of_steps_in_a_file_of_one_size(tmp_path):
    net = States(nn.GRU, {"bidirectional": True})
    steps = torch.export.Dim("steps")
    program = capture(net, (torch.randn(6, 2, 5),), dynamic=({0: steps},))
    artifact = built(program, Tvm(database=""), tmp_path / "any")
    for count in (1, 6, 25):
        x = torch.randn(count, 2, 5)
        for got, want in zip(artifact(x.numpy()), net(x), strict=True):
            assert np.allclose(got, want.detach().numpy(), atol=1e-5)
    sizes = []
    for count in (4, 64):
        fixed = capture(net, (torch.randn(count, 2, 5),), dynamic=None)
        sizes.append(model_bytes(built(fixed, Tvm(database=""), tmp_path / str(count))))
    assert sizes[1] < 1.05 * sizes[0]  # steps that were written out would be sixteen times as many


def test_tvm_shares_the_examples_of_a_large_layer_among_threads(tmp_path):
    net, x = nn.GRU(16, 256, batch_first=True), torch.randn(8, 12, 16)
    target = dataclasses.replace(host(), cores=2)
    (tmp_path / "out").mkdir()
    _, artifact = lower(capture(net, (x,)), Tvm(database="", threads=2), target, tmp_path / "out")
    for got, want in zip(artifact(x.numpy()), net(x), strict=True):
        assert np.allclose(got, want.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_steps_are_proved(kind):
    layer, options, _ = KINDS[kind]
    program = capture(States(layer, options), (torch.randn(2, 4, 5),))
    (step,) = Pipeline.parse("unroll_recurrent").run(program).steps  # float64 proof
    assert step.changed
    assert not step.skips


def test_cells_run_in_onnx_runtime(tmp_path):
    net, x = Cells(), torch.randn(2, 5)
    artifact = built(capture(net, (x,)), Onnx(), tmp_path / "out")
    assert np.allclose(artifact(x.numpy())[0], net(x)[0].detach().numpy(), atol=1e-5)


def test_int8_weights_go_to_the_kernel_that_quantizes_each_step(tmp_path):
    layer, options, _ = KINDS["lstm"]
    net, x = States(layer, options), torch.randn(2, 4, 5)
    outcome = Pipeline.parse("quantize_dynamic").run(capture(net, (x,)), backend=Onnx(), target=host())
    matrices = [w for n, w in outcome.program.tensors().items() if "weight" in n and w.dim() == 2]
    assert {w.dtype for w in matrices} == {torch.int8}
    artifact = built(outcome.program, Onnx(), tmp_path / "out")
    assert artifact.manifest.facts["nodes"]["DynamicQuantizeLSTM"] == 2
    got = [torch.from_numpy(np.array(v)) for v in artifact(x.numpy())]
    assert sqnr([v.detach() for v in net(x)], got) > 25


def test_int8_layers_behind_a_recurrent_one_take_their_range_when_it_runs(tmp_path):
    class Scored(States):
        def forward(self, x):
            return self.score(self.layer(x)[0])

    net, x = Scored(nn.GRU, {"batch_first": True}), torch.randn(2, 4, 5)
    net.score = nn.Linear(7, 3)
    outcome = Pipeline.parse("quantize_dynamic").run(capture(net, (x,)), backend=Onnx(), target=host())
    artifact = built(outcome.program, Onnx(), tmp_path / "out")
    assert artifact.manifest.facts["integer_contractions"] == 1
    assert sqnr([net(x).detach()], [torch.from_numpy(artifact(x.numpy()))]) > 25


def test_a_layer_of_which_one_weight_stays_float_stays_float():
    layer, options, _ = KINDS["gru"]
    program = capture(States(layer, options), (torch.randn(2, 4, 5),))
    (step,) = Pipeline.parse("quantize_dynamic(keep_float=('layer.weight_hh_l0',))").run(program).steps
    assert not step.changed
    assert "keep_float" in str(step.skips[-1])
