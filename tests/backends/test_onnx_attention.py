"""Attention as ONNX Runtime's own kernel: torch's numbers in every form, and zeros where a query is left without a key."""

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import capture
from fxopt.backends.onnx.attention_kernels import use_attention_kernels
from fxopt.backends.onnx.backend import Onnx
from fxopt.driver.lower import lower
from fxopt.target.detect import host

SDPA = F.scaled_dot_product_attention


class Net(nn.Module):
    """``attend(self, x, m)`` on ``x [N, length, 3 * 12]`` and booleans ``m [N, length]``."""

    def __init__(self, attend):
        super().__init__()
        self.attend = attend
        self.register_buffer("lower", torch.ones(7, 7, dtype=torch.bool).tril())
        self.register_buffer(
            "slope", -torch.arange(7.0).outer(torch.ones(7))[None] * torch.arange(1.0, 4)[:, None, None]
        )
        self.register_buffer("none", torch.zeros(7, 7, dtype=torch.bool))

    def forward(self, x, m):
        return self.attend(self, x, m)


def heads(x, count=3):
    """``[N, length, count * width]`` to ``[N, count, length, width]``."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def qkv(x, count=3):
    return [heads(part, count) for part in x.chunk(3, -1)]


def merged(y):
    return y.transpose(1, 2).flatten(2)


FORMS = {
    "plain": lambda s, x, m: merged(SDPA(*qkv(x))),
    "a scale": lambda s, x, m: merged(SDPA(*qkv(x), scale=0.3)),
    "causal": lambda s, x, m: merged(SDPA(*qkv(x), is_causal=True)),
    "a stored boolean mask": lambda s, x, m: merged(SDPA(*qkv(x), attn_mask=s.lower)),
    "a stored mask for each head": lambda s, x, m: merged(SDPA(*qkv(x), attn_mask=s.slope)),
    "a stored mask that is expanded": lambda s, x, m: merged(
        SDPA(*qkv(x), attn_mask=s.lower.expand(x.shape[0], 1, 7, 7))
    ),
    "a computed mask of keys": lambda s, x, m: merged(SDPA(*qkv(x), attn_mask=m[:, None, None, :])),
    "a computed mask of queries and keys": lambda s, x, m: merged(
        SDPA(*qkv(x), attn_mask=s.lower & m[:, None, None, :])
    ),
    "wider values": lambda s, x, m: merged(SDPA(heads(x[..., :6]), heads(x[..., 6:12]), heads(x[..., 12:]))),
    "other keys than queries": lambda s, x, m: merged(SDPA(qkv(x)[0], *(part[:, :, :4] for part in qkv(x)[1:]))),
    "heads that come first": lambda s, x, m: SDPA(*(part * 2 for part in qkv(x))),
    "keys and values that come first": lambda s, x, m: merged(SDPA(qkv(x)[0], *(part + 1 for part in qkv(x)[1:]))),
    "wider values that come first": lambda s, x, m: merged(SDPA(*(heads(p) + 1 for p in x.split((6, 6, 24), -1)))),
    "keys that come first": lambda s, x, m: merged(SDPA(qkv(x)[0], qkv(x)[1] + 1, qkv(x)[2])),
    "a result that is read twice": lambda s, x, m: (lambda y: merged(y) + y.mean() + merged(y * 2))(SDPA(*qkv(x))),
    "a result that is copied": lambda s, x, m: SDPA(*qkv(x)).transpose(1, 2).contiguous().view(x.shape[0], -1, 12),
    "causal, with fewer keys": lambda s, x, m: merged(
        SDPA(qkv(x)[0], *(p[:, :, :4] for p in qkv(x)[1:]), is_causal=True)
    ),
    "a mask for each head, computed": lambda s, x, m: merged(SDPA(*qkv(x), attn_mask=s.slope > x[:, None, :1, :1])),
    "a computed mask that is added": lambda s, x, m: merged(SDPA(*qkv(x), attn_mask=x[:, None, :, :7])),
    "one that is added, and bars all keys": lambda s, x, m: merged(
        SDPA(*qkv(x), attn_mask=m[:, None, None].float().log())
    ),
    "shared keys": lambda s, x, m: merged(
        SDPA(heads(x, 6), *(heads(x[..., :12], 2) for _ in range(2)), enable_gqa=True)
    ),
    "no key at all, stored": lambda s, x, m: merged(SDPA(*qkv(x), attn_mask=s.none)),
    "a mask of two dims, computed": lambda s, x, m: merged(SDPA(*qkv(x), attn_mask=s.lower & (x.mean() > 0))),
}


def built(attend, folder, **options):
    """The program, its artifact, and its calls of the kernel."""
    torch.manual_seed(0)
    x, m = torch.randn(2, 7, 36), torch.rand(2, 7) > 0.3
    m[1] = False  # leaves the second example without any key
    program = capture(Net(attend).eval(), (x, m))
    _, artifact = lower(program, Onnx(**options), host(), folder)
    nodes = onnx.load(folder / "model.onnx").graph.node
    return program, artifact, [node.op_type for node in nodes].count("MultiHeadAttention")


def examples():
    for seed, n in ((1, 1), (2, 2), (3, 5)):
        torch.manual_seed(seed)
        m = torch.rand(n, 7) > 0.5
        m[0] = seed == 1
        yield torch.randn(n, 7, 36) * 3, m


OFTEN = {"causal", "a stored mask for each head", "a computed mask of keys", "keys that come first", "shared keys",
         "a result that is read twice"}  # fmt: skip


@pytest.mark.parametrize("form", [pytest.param(f, marks=[] if f in OFTEN else pytest.mark.slow) for f in FORMS])
def test_the_kernel_gives_torchs_numbers(form, tmp_path):
    """float64 is the reference; float32's own error is of 1e-7."""
    _, artifact, kernels = built(FORMS[form], tmp_path)
    assert kernels == 1
    for x, m in examples():
        want = FORMS[form](Net(None).double(), x.double(), m)
        got = torch.as_tensor(artifact(x.numpy(), m.numpy()))
        assert got.shape == want.shape
        assert torch.allclose(got.double(), want, atol=1e-5), (got - want).abs().max()


def test_two_layers_share_what_is_made_of_their_mask(tmp_path):
    def twice(s, x, m):
        mask = m[:, None, None, :]
        y = merged(SDPA(*qkv(x), attn_mask=mask))
        return merged(SDPA(heads(y), heads(y), heads(y), attn_mask=mask))

    _, _, kernels = built(twice, tmp_path)
    assert kernels == 2
    assert [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node].count("Not") == 1


def test_a_batch_in_the_place_of_heads_is_written_out(tmp_path):
    def three_dims(s, x, m):
        return SDPA(*x.chunk(3, -1)) + m.any()

    _, artifact, kernels = built(three_dims, tmp_path)
    assert kernels == 0
    (note,) = artifact.manifest.facts["notes"]
    assert note.startswith("attention is written out: the number or the size of its heads can vary: ")
    assert "test_onnx_attention.py:" in note
    for x, m in examples():
        want = three_dims(None, x, m)
        assert torch.allclose(torch.as_tensor(artifact(x.numpy(), m.numpy())), want, atol=1e-5)


def test_a_file_for_other_runtimes_has_operators_of_the_standard_alone(tmp_path):
    _, artifact, kernels = built(FORMS["plain"], tmp_path, operators="standard")
    assert kernels == 0
    assert {node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node} == {""}
    assert "notes" not in artifact.manifest.facts
    for x, m in examples():
        want = FORMS["plain"](None, x, m)
        assert torch.allclose(torch.as_tensor(artifact(x.numpy(), m.numpy())), want, atol=1e-5)


def test_in_float16_it_is_written_out(tmp_path):
    program = capture(
        Net(lambda s, x, m: merged(SDPA(*qkv(x)))).half().eval(), (torch.randn(2, 7, 36).half(), torch.ones(2, 7))
    )
    assert use_attention_kernels(program) is program


def test_projections_are_read_as_they_are(tmp_path):
    """Nothing is turned or merged around it."""
    program, artifact, _ = built(FORMS["plain"], tmp_path)
    (attention,) = program.find("aten.scaled_dot_product_attention")
    assert attention.name in artifact.manifest.facts["nodes_of"].values(), "a profile says whose time it is"
    assert {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node} == {"Split", "MultiHeadAttention"}
