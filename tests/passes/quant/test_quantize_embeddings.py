"""Tables of embeddings in 8 and 4 bits: codes as numpy finds them, gathered before they are dequantized, small files."""

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
    def __init__(self, *, tied=False, rows=3000, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places, self.head = (
            nn.Embedding(rows, width),
            nn.Embedding(8, width),
            nn.Linear(width, rows, bias=False),
        )
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens):
        return self.head(self.words(tokens) + self.places(torch.arange(tokens.shape[1])))


TOKENS = torch.randint(3000, (2, 6))


def quantized(net, passes="quantize_embeddings", backend=None):
    outcome = Pipeline.parse(passes).run(capture(net, (TOKENS,)), backend=backend)
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


def best_of_4_bits(table):
    """Row by row, of the scales from max / 7 down to 0.6 of it, the one that loses least; by numpy alone."""
    real = np.empty(table.shape)
    for i, row in enumerate(table.astype(np.float64)):
        tried = []
        for share in np.linspace(1, 0.6, 17):
            scale = float(np.float32(float(np.float32(np.abs(row).max() / 7)) * share))
            made = np.clip(np.rint(row / scale), -7, 7) * scale
            tried.append((((row - made) ** 2).sum(), made))
        real[i] = min(tried, key=lambda pair: pair[0])[1]
    return real


@pytest.mark.parametrize("width", [16, 17])
def test_rows_of_4_bits_are_those_of_least_error(width):
    net = Words(width=width)
    net.head = nn.Identity()
    program, _ = quantized(net, "quantize_embeddings(bits=4)")
    codes = program.tensors()["words.weight_int4"]
    assert (codes.dtype, tuple(codes.shape)) == (torch.int8, (3000, -(-width // 2)))
    places = net.places.weight.detach()[: TOKENS.shape[1]]
    got = (program(TOKENS) - places).detach().numpy()
    want = best_of_4_bits(net.words.weight.detach().numpy())[TOKENS.numpy()]
    assert np.abs(got - want).max() < 1e-5


def test_every_pair_of_4_bit_codes_comes_back():
    table = torch.cartesian_prod(torch.arange(-7.0, 8), torch.arange(-7.0, 8))
    table = torch.cat([table, torch.tensor([[7.0, 0.0]]).expand(len(table), 2)], 1)  # so that the scale is 1
    net = nn.Embedding.from_pretrained(table)
    indices = torch.arange(len(table)).view(15, 15)
    outcome = Pipeline.parse("quantize_embeddings(bits=4, least_bytes=0)").run(capture(net, (indices,)))
    assert torch.equal(outcome.program(indices), table[indices])


def test_a_tied_head_reads_the_same_codes():
    net = Words(tied=True)
    program, skips = quantized(net)
    assert [skip.reason for skip in skips if "reads its table" in skip.reason] == []
    assert [t.shape for t in program.tensors().values() if t.numel() == 3000 * 16] == [(3000, 16)]
    rows = net.words.weight.detach().double().numpy()
    scales = np.abs(rows).max(1, keepdims=True) / 127
    real = np.rint(rows / scales) * scales
    want = (real[TOKENS.numpy()] + net.places.weight.detach().numpy()[: TOKENS.shape[1]]) @ real.T
    assert np.abs(program(TOKENS).detach().numpy() - want).max() < 1e-3 * np.abs(want).max()


@pytest.mark.parametrize(
    ("change", "passes", "words"),
    [
        (lambda net: None, "quantize_embeddings(bits=4)", "%linear reads its table too, and has no rows of 4 bits"),
        (lambda net: setattr(net, "head", _Sum(net.words)), "quantize_embeddings", "reads its table too, so that"),
    ],
)
def test_a_table_that_something_else_reads_stays(change, passes, words):
    net = Words(tied=True)
    change(net)
    program, skips = quantized(net, passes)
    assert any(words in skip.reason for skip in skips)
    assert not any(t.dtype == torch.int8 for t in program.tensors().values())


class _Sum(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.words = words

    def forward(self, x):
        return x.sum(-1) + self.words.weight.sum()


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


@pytest.mark.parametrize("kind", ["8 bits", "4 bits", "8 bits, tied"])
@pytest.mark.parametrize("backend", [Onnx(), Openvino(), Tvm(database="")], ids=str)
def test_backends_gather_codes_and_files_are_small(backend, kind, tmp_path):
    bits, tied = int(kind[0]), "tied" in kind
    net = Words(tied=tied)
    if not tied:
        net.head = nn.Linear(16, 3)
    program, skips = quantized(net, f"quantize_embeddings(bits={bits})", backend)
    if tied and backend.name == "tvm":
        assert any("reads its table too, and TVM has no form of" in skip.reason for skip in skips)
        return
    legal, artifact = lower(program, backend, host(), tmp_path)
    Fidelity(legal).check(artifact)
    got, want = artifact(TOKENS.numpy()), program(TOKENS).detach().numpy()
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
    size = sum(file.stat().st_size for file in tmp_path.iterdir() if file.suffix in (".onnx", ".bin", ".params"))
    scales = 4 * 3000
    assert size < bits / 8 * net.words.weight.numel() + scales + 15_000, "15 kB for the graph"
