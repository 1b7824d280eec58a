"""Tables of embeddings in int8: half a code a row at most, picked before they are dequantized, and what stays says why."""

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
from fxopt.errors import PassError
from fxopt.target.detect import host

pytestmark = pytest.mark.usefixtures("one_thread")


class Words(nn.Module):
    def __init__(self, *, tied=False, rows=3000):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places, self.head = (
            nn.Embedding(rows, 16),
            nn.Embedding(8, 16),
            nn.Linear(16, rows, bias=False),
        )
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens):
        return self.head(self.words(tokens) + self.places(torch.arange(tokens.shape[1])))


TOKENS = torch.randint(3000, (2, 6))


def quantized(net, passes="quantize_embeddings"):
    outcome = Pipeline.parse(passes).run(capture(net, (TOKENS,)))
    return outcome.program, [skip for step in outcome.steps for skip in step.skips]


def test_each_row_is_off_by_half_a_code():
    net = Words()
    net.head = nn.Identity()
    program, skips = quantized(net)
    rows = net.words.weight.detach()
    limit = rows.abs().amax(1)[TOKENS] / 127 / 2
    assert bool(((program(TOKENS) - net(TOKENS)).abs().amax(-1) <= limit * (1 + 1e-4)).all())
    codes = program.tensors()["words.weight_int8"]
    assert (codes.dtype, tuple(codes.shape)) == (torch.int8, (3000, 16))
    assert not any(t.shape == (3000, 16) and t.is_floating_point() for t in program.tensors().values())
    assert len(skips) == 1
    assert "smaller than least_bytes" in skips[0].reason


def test_a_tied_table_stays():
    program, skips = quantized(Words(tied=True))
    assert "reads its table too" in skips[0].reason
    assert not any(t.dtype == torch.int8 for t in program.tensors().values())


def test_a_table_that_is_not_finite_is_named():
    net = Words()
    with torch.no_grad():
        net.words.weight[7, 3] = torch.nan
    with pytest.raises(PassError, match=r"words\.weight.*NaN"):
        Pipeline.parse("quantize_embeddings").run(capture(net, (TOKENS,)), watchers=())


@pytest.mark.parametrize("passes", ["quantize_dynamic", "quantize_weights"])
def test_a_large_table_that_stays_float_is_reported(passes):
    _, skips = quantized(Words(rows=20000), passes)
    assert any("1.3 MB stays float" in skip.reason and "quantize_embeddings" in skip.reason for skip in skips)


@pytest.mark.parametrize("backend", [Onnx(), Openvino(), Tvm(database="")], ids=str)
def test_backends_pick_codes(backend, tmp_path):
    net = Words()
    net.head = nn.Linear(16, 3)
    program, _ = quantized(net)
    legal, artifact = lower(program, backend, host(), tmp_path)
    Fidelity(legal).check(artifact)
    assert np.allclose(artifact(TOKENS.numpy()), program(TOKENS).numpy(), atol=1e-5)
    size = sum(file.stat().st_size for file in tmp_path.iterdir() if file.suffix in (".onnx", ".bin", ".params"))
    assert size < 0.5 * 4 * net.words.weight.numel()
