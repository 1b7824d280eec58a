"""Recurrent layers on each backend: the runtime's own ops, held against torch; int8 against the formula of the codes."""

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
from fxopt.errors import BackendError
from fxopt.numerics.error_metrics import sqnr
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

    def __init__(self, kind, options):
        super().__init__()
        torch.manual_seed(0)
        self.layer = kind(5, 7, **options)

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


def test_tvm_writes_the_steps_out(tmp_path):
    net, x = States(nn.GRU, {"batch_first": True}), torch.randn(2, 2, 5)
    artifact = built(capture(net, (x,)), Tvm(database=""), tmp_path / "out")
    for got, want in zip(artifact(x.numpy()), net(x), strict=True):
        assert np.allclose(got, want.detach().numpy(), atol=1e-5)


def test_steps_of_a_dynamic_number_are_refused_with_a_backend_that_takes_them(tmp_path):
    program = capture(nn.GRU(5, 6), (torch.randn(3, 2, 5),))  # the first dim is the steps
    with pytest.raises(BackendError, match="use the backend onnx"):
        built(program, Tvm(database=""), tmp_path / "tvm")
    built(program, Onnx(), tmp_path / "onnx")


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


def test_a_layer_of_which_one_weight_stays_float_stays_float():
    layer, options, _ = KINDS["gru"]
    program = capture(States(layer, options), (torch.randn(2, 4, 5),))
    (step,) = Pipeline.parse("quantize_dynamic(keep_float=('layer.weight_hh_l0',))").run(program).steps
    assert not step.changed
    assert "keep_float" in str(step.skips[-1])
