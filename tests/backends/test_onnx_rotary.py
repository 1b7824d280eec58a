"""Rotary embeddings as ONNX Runtime's own kernel: torch's numbers in each spelling, and a note of those that are written out."""

import onnx
import pytest
import torch
from torch import nn

from fxopt import capture
from fxopt.backends.onnx.backend import Onnx
from fxopt.driver.lower import lower
from fxopt.target.detect import host

WIDTH = 8
FREQUENCIES = 10.0 ** -torch.linspace(0, 3, WIDTH // 2)


class Net(nn.Module):
    """``turn(self, x, positions)`` on x ``[N, length, 3 * WIDTH]`` and int64 positions ``[N, length]``."""

    def __init__(self, turn):
        super().__init__()
        self.turn = turn
        angles = torch.arange(64.0)[:, None] * FREQUENCIES
        self.register_buffer("frequencies", FREQUENCIES)
        self.register_buffer("cosines", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sines", torch.cat([angles, angles], -1).sin())
        self.register_buffer("other", torch.cat([angles, 2 * angles], -1).cos())

    def forward(self, x, positions):
        return self.turn(self, x, positions)


def heads(x):
    """``[N, length, 3 * width]`` to ``[N, 3, length, width]``."""
    return x.unflatten(-1, (3, -1)).transpose(1, 2)


def angles(s, positions):
    one = positions[..., None].to(s.frequencies.dtype) * s.frequencies
    return torch.cat([one, one], -1)


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)


def turned(x, cos, sin):
    return x * cos + rotate_half(x) * sin


def by_positions(s, x, p, scale=1.0):
    return turned(heads(x), (angles(s, p).cos() * scale)[:, None], (angles(s, p).sin() * scale)[:, None])


def partial(s, x, p):
    turns, stays = heads(torch.cat([x, x], -1)).split(WIDTH, -1)
    both = torch.cat([by_positions(s, turns.transpose(1, 2).flatten(2), p), stays], -1)
    return both * 2


def shared(s, x, p):
    """Three heads of queries, one of keys."""
    cos, sin = angles(s, p).cos()[:, None], angles(s, p).sin()[:, None]
    keys = x[..., :WIDTH].unflatten(-1, (1, -1)).transpose(1, 2)
    return turned(heads(x), cos, sin) @ turned(keys, cos, sin).transpose(2, 3)


def tabled(s, x, p):
    return turned(heads(x), s.cosines[: x.shape[1]], s.sines[: x.shape[1]])


def chunked(s, x, p):
    x = heads(x)
    one, other = x.chunk(2, -1)
    return angles(s, p).sin()[:, None] * torch.cat([-other, one], -1) + angles(s, p).cos()[:, None] * x


FORMS = {
    "by positions": (by_positions, 1),
    "scaled": (lambda s, x, p: by_positions(s, x, p, 1.3), 1),
    "merged again": (lambda s, x, p: by_positions(s, x, p).transpose(1, 2).flatten(2), 1),
    "heads that come first": (lambda s, x, p: by_positions(s, heads(x).exp().transpose(1, 2).flatten(2), p), 1),
    "not split from a projection": (
        lambda s, x, p: turned(heads(x) + 1, angles(s, p).cos()[:, None], angles(s, p).sin()[:, None]), 1
    ),
    "a part of the dims": (partial, 1),
    "keys for several heads": (shared, 2),
    "stored tables, the first rows": (tabled, 1),
    "stored tables, by position": (lambda s, x, p: turned(heads(x), s.cosines[p][:, None], s.sines[p][:, None]), 1),
    "halves by chunk": (chunked, 1),
}  # fmt: skip


def built(turn, folder, dtype=torch.float32, **options):
    """The artifact, and its calls of the kernel."""
    torch.manual_seed(0)
    net = Net(turn).to(dtype).eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=64)
    dims = {0: batch, 1: length}
    example = (torch.randn(2, 5, 3 * WIDTH, dtype=dtype), torch.arange(5).repeat(2, 1))
    _, artifact = lower(capture(net, example, dynamic=(dims, dims)), Onnx(**options), host(), folder)
    return artifact, [n.op_type for n in onnx.load(folder / "model.onnx").graph.node].count("RotaryEmbedding")


def examples():
    """A prompt, a prompt in a batch padded on the left, and single tokens after others."""
    torch.manual_seed(1)
    yield torch.randn(1, 9, 3 * WIDTH), torch.arange(9)[None]
    yield torch.randn(2, 4, 3 * WIDTH), torch.tensor([[0, 1, 2, 3], [0, 0, 0, 1]])
    yield torch.randn(3, 1, 3 * WIDTH), torch.tensor([[17], [4], [0]])


def assert_torchs_numbers(turn, artifact):
    """float64 is the reference, of float32's angles; float32's own error is of 1e-6."""
    for x, positions in examples():
        want = turn(Net(None).double(), x.double(), positions)
        got = torch.as_tensor(artifact(x.numpy(), positions.numpy()))
        assert got.shape == want.shape
        assert torch.allclose(got.double(), want, atol=1e-5, rtol=1e-5), (got - want).abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_gives_torchs_numbers(form, tmp_path):
    turn, calls = FORMS[form]
    artifact, kernels = built(turn, tmp_path)
    assert kernels == calls
    assert "notes" not in artifact.manifest.facts
    assert_torchs_numbers(turn, artifact)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (lambda s, x, p: turned(heads(x), s.other[p][:, None], s.sines[p][:, None]), "the angles of both halves are not"),
        (lambda s, x, p: turned(heads(x), heads(x).cos(), heads(x).sin()), "its angles are not one vector for each"),
        (lambda s, x, p: turned(x[..., :WIDTH], angles(s, p).cos(), angles(s, p).sin()), "it does not have four dims"),
    ],
)  # fmt: skip
def test_others_are_written_out_with_a_note(turn, reason, tmp_path):
    artifact, kernels = built(turn, tmp_path)
    assert kernels == 0
    (note,) = artifact.manifest.facts["notes"]
    assert note.startswith(f"a rotary embedding is written out: {reason}")
    assert "test_onnx_rotary.py:" in note
    assert_torchs_numbers(turn, artifact)


def test_in_float16_it_is_written_out(tmp_path):
    artifact, kernels = built(tabled, tmp_path, torch.float16)
    assert kernels == 0
    assert "rotary embedding is written out: the kernel is for float32" in artifact.manifest.facts["notes"][0]


def test_a_file_for_other_runtimes_has_operators_of_the_standard_alone(tmp_path):
    artifact, _ = built(by_positions, tmp_path, operators="standard")
    assert {node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node} == {""}
    assert "notes" not in artifact.manifest.facts
    assert_torchs_numbers(by_positions, artifact)
