"""Small models, one for each way in which channels hang together. All sizes differ, or symmetry would hide errors."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune


class Attention(nn.Module):
    """``[N, T, 10]``; 6 query heads of 4, and 3 key and value heads, repeated in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.q, self.k, self.v, self.out = nn.Linear(10, 24), nn.Linear(10, 12), nn.Linear(10, 15), nn.Linear(30, 10)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (m(x).view(n, t, h, -1).transpose(1, 2) for m, h in ((self.q, 6), (self.k, 3), (self.v, 3)))
        if self.how == "expand":
            k, v = (y.unsqueeze(2).expand(n, 3, 2, t, y.shape[-1]).reshape(n, 6, t, -1) for y in (k, v))
        elif self.how == "repeat_interleave":
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, dim=1)
        elif self.how == "tile":  # each key head with query heads that are 3 apart
            k, v = k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.how == "flag")
        return self.out(y.transpose(1, 2).flatten(2))


class ByHand(nn.Module):
    """Attention of matmuls; batch and heads are merged, as older code does."""

    def __init__(self, minus_one):
        super().__init__()
        self.minus_one = minus_one
        self.q, self.k, self.v, self.out = nn.Linear(10, 12), nn.Linear(10, 12), nn.Linear(10, 15), nn.Linear(15, 10)

    def forward(self, x):
        n, t, _ = x.shape
        first = -1 if self.minus_one else n * 3
        q, k, v = (
            m(x).view(n, t, 3, -1).transpose(1, 2).reshape(first, t, d)
            for m, d in ((self.q, 4), (self.k, 4), (self.v, 5))
        )
        y = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * 0.5).softmax(-1), v)
        return self.out(y.view(n, 3, t, 5).transpose(1, 2).reshape(n, t, 15))


class Fused(nn.Module):
    """Query, key and value of one linear layer."""

    def __init__(self, how):
        super().__init__()
        self.how, self.qkv, self.out = how, nn.Linear(10, 36), nn.Linear(12, 10)

    def forward(self, x):
        n, t, _ = x.shape
        if self.how == "view":
            q, k, v = self.qkv(x).view(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (y.view(n, t, 3, 4).transpose(1, 2) for y in self.qkv(x).split(12, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 12))


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.attention, self.down = (
            nn.Linear(10, 12),
            nn.MultiheadAttention(12, 3, batch_first=True),
            nn.Linear(12, 7),
        )

    def forward(self, x):
        y = self.up(x)
        return self.down(self.attention(y, y, y, need_weights=False)[0])


class RmsByHand(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(n) + 0.5)

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * self.weight


class Llama(nn.Module):
    """One block: rotary positions, RMS norms, SwiGLU, on a residual stream of 14."""

    def __init__(self, norm):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 14), nn.Linear(14, 9)
        self.first, self.second, self.last = norm(14), norm(14), norm(14)
        self.q, self.k, self.v, self.o = nn.Linear(14, 24), nn.Linear(14, 12), nn.Linear(14, 15), nn.Linear(30, 14)
        self.gate, self.up, self.down = nn.Linear(14, 17), nn.Linear(14, 17), nn.Linear(17, 14)
        angle = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1])).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def rotate(self, x):
        a, b = x[..., :2], x[..., 2:]
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, tokens):
        x = self.embed(tokens)
        n, t, _ = x.shape
        y = self.first(x)
        q, k, v = (m(y).view(n, t, h, -1).transpose(1, 2) for m, h in ((self.q, 6), (self.k, 3), (self.v, 3)))
        k, v = self.rotate(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(self.rotate(q), k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(n, t, 30))
        y = self.second(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.last(x))


class Factored(nn.Module):
    """24 channels seen as a product of one kind, then as one of another."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second
        self.up, self.down = nn.Linear(10, 24), nn.Linear(24, 7)
        self.scale, self.shift = nn.Parameter(torch.randn(first[0], 1)), nn.Parameter(torch.randn(second[1]))

    def forward(self, x):
        y = torch.relu(self.up(x)).unflatten(-1, self.first) * self.scale
        return self.down((y.flatten(-2).unflatten(-1, self.second) + self.shift).flatten(-2))


class GroupNorm(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(groups, 12), nn.ReLU(), nn.Conv2d(12, 5, 3))

    def forward(self, x):
        return self.layers(x)


class Glu(nn.Module):
    def __init__(self, chunk):
        super().__init__()
        self.chunk, self.up, self.down = chunk, nn.Conv2d(3, 14, 3), nn.Conv2d(7, 5, 3)

    def forward(self, x):
        if not self.chunk:
            return self.down(F.glu(self.up(x), 1))
        a, b = self.up(x).chunk(2, 1)
        return self.down(a * b.sigmoid())


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 5, 3)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x):
        y = F.relu(self.up(x))
        return self.down(y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))))


class PaddedShortcut(nn.Module):
    """A residual network whose shortcut fills up with zero channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 11, 3, 2, 1), nn.Linear(11, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.body(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3)))
        return self.head(x.mean((2, 3)))


class Permuted(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(10, 7), nn.Linear(7, 5), nn.Parameter(torch.randn(7))
        self.register_buffer("order", torch.tensor([3, 0, 6, 5, 1, 2, 4]))

    def forward(self, x):
        return self.down((self.up(x) * self.scale)[..., self.order])


class Aliased(nn.Module):
    """What is written into a view is seen in what it views."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(10, 12), nn.Linear(12, 5)

    def forward(self, x):
        y = self.up(x)
        v = y.view(-1, 3, 4)
        v.add_(1)
        v[:, 1].mul_(3)
        y[:, 8:].relu_()
        return self.down(y)


class Tied(nn.Module):
    """The embedding is the output layer too."""

    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + torch.tanh(self.body(x)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.same, self.down = nn.Linear(10, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.down(torch.relu(self.same(torch.relu(self.same(self.up(x))))))


class PatchMerging(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.merge, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(24, 10), nn.Linear(10, 5)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        x = torch.cat([x[:, a::2, b::2] for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))], -1)
        return self.head(torch.relu(self.merge(x)).mean((1, 2)))


class Windows(nn.Module):
    """Shifted windows of 2 by 2 positions, attention inside each."""

    def __init__(self):
        super().__init__()
        self.patch, self.attention, self.head = nn.Conv2d(3, 10, 2, 2), Fused("split"), nn.Linear(10, 5)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(x, (-1, -1), (1, 2)).view(n, h // 2, 2, w // 2, 2, c)
        y = self.attention(y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c))
        y = y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return self.head((x + torch.roll(y, (1, 1), (1, 2))).mean((1, 2)))


class ChannelShuffle(nn.Module):
    def __init__(self, op):
        super().__init__()
        self.op, self.up = op, nn.Conv2d(3, 12, 1)
        self.first, self.second = nn.Conv2d(12, 12, 3, groups=3), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = self.first(F.relu(self.up(x)))
        if self.op:
            return self.second(F.channel_shuffle(x, 3))
        n, c, h, w = x.shape
        return self.second(x.view(n, 3, c // 3, h, w).transpose(1, 2).contiguous().view(n, c, h, w))


class PixelShuffle(nn.Module):
    """Channels become positions, and channels again."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 20, 3), nn.Conv2d(20, 4, 3)

    def forward(self, x):
        return self.down(F.pixel_unshuffle(F.pixel_shuffle(F.relu(self.up(x)), 2), 2))


class SuperResolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 20, 3), nn.Conv2d(5, 4, 3)

    def forward(self, x):
        return self.down(F.pixel_shuffle(F.relu(self.up(x)), 2))


class Dense(nn.Module):
    """Concatenations of concatenations, each behind a batch norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Linear(18, 5)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.up = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ConvTranspose2d(8, 7, 2, 2),
        )
        self.last = nn.Conv2d(13, 4, 3, padding=1)

    def forward(self, x):
        a = F.relu(self.first(x))
        b = F.relu(self.second(F.max_pool2d(a, 2)))
        return self.last(torch.cat([a, self.up(b)], 1))


class Masked(nn.Module):
    """Weights as torch's own pruning leaves them."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(10, 8), nn.Linear(8, 5)
        prune.l1_unstructured(self.up, "weight", 0.3)
        prune.custom_from_mask(self.down, "weight", torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1]).expand(5, 8).clone())

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


class Positional(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 5)
        self.position = nn.Parameter(torch.randn(1, 7, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, tokens):
        x = torch.cat([self.token.expand(tokens.shape[0], -1, -1), self.embed(tokens)], 1)
        return self.head(torch.tanh(x + self.position[:, : x.shape[1]]).sum(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.lstm, self.down = nn.Linear(10, 8), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.down(self.lstm(self.up(x))[0])


class Depthwise(nn.Module):
    """An inverted residual block, and a grouped convolution of 3 groups."""

    def __init__(self):
        super().__init__()
        self.up, self.depth, self.grouped = (
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(6, 12, 3, groups=6),
            nn.Conv2d(12, 15, 3, groups=3),
        )
        self.norm, self.down = nn.BatchNorm2d(15), nn.Conv2d(15, 5, 1)

    def forward(self, x):
        return self.down(F.relu6(self.norm(self.grouped(F.relu6(self.depth(F.hardswish(self.up(x))))))))


class Einsum(nn.Module):
    """Heads by einsum, the output layer sums over heads and width at once."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Parameter(torch.randn(10, 3, 4) / 3), nn.Parameter(torch.randn(10, 3, 4) / 3)
        self.v, self.o = nn.Parameter(torch.randn(10, 3, 5) / 3), nn.Parameter(torch.randn(3, 5, 10) / 3)

    def forward(self, x):
        q, k, v = (torch.einsum("btc,chd->bhtd", x, w) for w in (self.q, self.k, self.v))
        weights = torch.einsum("...qd,...kd->...qk", q, k).softmax(-1)
        return torch.einsum("bhtd,hde->bte", weights @ v, self.o)


def images(*shape):
    return (torch.randn(2, *(shape or (3, 8, 8)), generator=torch.Generator().manual_seed(0)),)


def tokens(n=5):
    return (torch.randint(0, 11, (2, n), generator=torch.Generator().manual_seed(0)),)


def made(factory, *options, seed=0):
    """A model in evaluation mode, its batch norms with statistics of their own."""
    torch.manual_seed(seed)
    model = factory(*options).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return model
