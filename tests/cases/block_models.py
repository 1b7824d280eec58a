"""Small networks with one kind of block each."""

import torch
from torch import nn
from torch.nn import functional as F

import fxopt


class SqueezeExcite(nn.Module):
    """A convolution whose channels are weighed by what two linears make of their means."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x):
        y = F.relu(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))
        return self.head(y * gate[:, :, None, None])


class Attention(nn.Module):
    """Attention of two heads, by the fused op or written out, with one projection or three."""

    def __init__(self, fused=True, packed=False, width=8):
        super().__init__()
        self.fused, self.packed = fused, packed
        self.qkv = nn.Linear(width, 3 * width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape
        if self.packed:
            q, k, v = self.qkv(x).view(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (p(x).view(n, length, 2, width // 2).transpose(1, 2) for p in (self.q, self.k, self.v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        return x + self.out(y.transpose(1, 2).reshape(n, length, width))


def captured(module, *shape, dtype=torch.float32):
    """The program of a module on a random input of this shape, whose first dim is dynamic."""
    generator = torch.Generator().manual_seed(1)
    return fxopt.capture(module.eval(), (torch.randn(*shape, generator=generator, dtype=dtype),))


def seeded(make, *args, **kwargs):
    """A module with weights from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*args, **kwargs)
