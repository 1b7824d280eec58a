"""Networks drawn at random as lists of steps, for hypothesis: every structure through which channels hang together."""

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

# One step of a network: each takes and gives [N, C, 4, 4], the number of channels may change.
STEPS = (
    "conv", "conv", "norm", "grouped", "depthwise", "transposed", "relu", "unary", "residual", "gate", "squeeze", "cat",
    "nested_cat", "split", "glu", "shuffle", "scale_groups", "linear", "layer_norm", "rms_norm", "group_norm", "attention",
    "shared", "slice", "index", "center", "repeat", "expand", "write", "flip", "pool", "einsum",
)  # fmt: skip
WIDEST = 24


def divisor(c, n):
    """A number of groups for ``c`` channels, 1 if there is none."""
    found = [d for d in (2, 3, 4) if c % d == 0] or [1]
    return found[n % len(found)]


class Random(nn.Module):
    """A network drawn as a list of steps; the outputs are a head of the last value, and one of an earlier one."""

    def __init__(self, steps, extra, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.steps, self.layers, self.narrow, self.widths = steps, nn.ModuleList(), nn.ModuleList(), [6]
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        for name, n in steps:
            layer, width = self._layer(name, n, self.widths[-1], self.widths[n % len(self.widths)])
            self.layers.append(layer)
            self.narrow.append(nn.Conv2d(width, 7, 1) if width > WIDEST else nn.Identity())
            self.widths.append(7 if width > WIDEST else width)
        self.extra = extra % len(self.widths)
        self.heads = nn.ModuleList([nn.Linear(self.widths[-1], 5), nn.Conv2d(self.widths[self.extra], 2, 1)])
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)):
                nn.init.uniform_(part.weight, 0.5, 1.5)

    def _layer(self, name, n, c, e):
        """The layers of a step, and how many channels it gives."""
        g, wide = divisor(c, n), (5, 6, 8, 12)[n % 4]
        match name:
            case "conv":
                return nn.Conv2d(c, wide, 3, padding=1, bias=n % 3 > 0), wide
            case "norm":
                return nn.BatchNorm2d(c), c
            case "grouped":
                return nn.Conv2d(c, g * 3, 3, padding=1, groups=g), g * 3
            case "depthwise":
                return nn.Conv2d(c, c * (1 + n % 2), 3, padding=1, groups=c), c * (1 + n % 2)
            case "transposed":
                return nn.ConvTranspose2d(c, g * 3, 3, padding=1, groups=g), g * 3
            case "squeeze":
                return nn.ModuleList([nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)]), c
            case "cat":
                return nn.Identity(), c + e
            case "nested_cat":
                return nn.Identity(), 2 * c + e
            case "glu":
                return nn.Identity(), c // 2 if c % 2 == 0 else c
            case "scale_groups":
                return nn.ParameterList([torch.randn(g, 1, 1, 1), torch.randn(c // g, 1, 1)]), c
            case "linear":
                return nn.Linear(c, wide), wide
            case "layer_norm" | "rms_norm":
                return (nn.LayerNorm if name == "layer_norm" else nn.RMSNorm)(c), c
            case "group_norm":
                return nn.GroupNorm(g, c), c
            case "attention":  # g heads of 3, for keys one head or as many
                keys = g if n % 2 else 1
                return nn.ModuleList([nn.Linear(c, o) for o in (3 * g, 3 * keys, 2 * keys)] + [nn.Linear(2 * g, c)]), c
            case "shared":
                return nn.Conv2d(c, c, 3, padding=1), c
            case "slice":
                return nn.Identity(), c - 1 - n % 2 if c > 4 else c
            case "repeat":
                return nn.Identity(), 2 * c
            case "expand":
                return nn.ParameterList([torch.randn(1, 1, 4, 1)]), c
            case "einsum":
                return nn.ParameterList([torch.randn(c, 2, 3) / 3, torch.randn(2, 3, c) / 3]), c
        return nn.Identity(), c

    def forward(self, x):
        values = [self.stem(x)]
        for (name, n), layer, narrow in zip(self.steps, self.layers, self.narrow, strict=True):
            values.append(narrow(self._step(name, n, layer, values[-1], values[n % len(values)])))
        return self.heads[0](values[-1].mean((2, 3))), self.heads[1](values[self.extra])

    def _step(self, name, n, layer, x, earlier):
        batch, c = x.shape[:2]
        g = divisor(c, n)
        match name:
            case "relu":
                return F.relu(x)
            case "unary":
                return (torch.tanh, torch.sigmoid, F.hardswish, torch.cos, F.gelu, torch.abs)[n % 6](x)
            case "residual":
                missing = c - earlier.shape[1]
                return x + F.pad(earlier, (0, 0, 0, 0, missing // 2, missing - missing // 2)) if missing >= 0 else x
            case "gate":
                return x * (earlier if earlier.shape[1] == c else earlier.mean(1, keepdim=True)).sigmoid()
            case "squeeze":
                return x * layer[1](F.relu(layer[0](F.adaptive_avg_pool2d(x, 1)))).sigmoid()
            case "cat":
                return torch.cat([x, earlier] if n % 2 else [earlier, x], 1)
            case "nested_cat":
                return torch.cat([torch.cat([x, earlier], 1), x.tanh()], 1)
            case "split":
                a, b = x.split([2, c - 2], 1) if n % 2 else x.chunk(2, 1)
                return torch.cat([b, a.exp()], 1)
            case "glu":
                return x if c % 2 else F.glu(x, 1)
            case "shuffle":
                return x.view(batch, g, c // g, 4, 4).transpose(1, 2).reshape(batch, c, 4, 4)
            case "scale_groups":
                return (x.unflatten(1, (g, c // g)) * layer[0] + layer[1]).flatten(1, 2)
            case "linear" | "layer_norm" | "rms_norm":
                return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            case "attention":
                y = x.flatten(2).transpose(1, 2)
                heads = (g, g if n % 2 else 1, g if n % 2 else 1)
                q, k, v = (m(y).view(batch, 16, h, -1).transpose(1, 2) for m, h in zip(layer, heads, strict=False))
                y = F.scaled_dot_product_attention(q, k, v, enable_gqa=n % 2 == 0)
                return x + layer[3](y.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(batch, c, 4, 4)
            case "shared":
                return layer(F.relu(layer(x)))
            case "slice":
                return x[:, 1 : c - n % 2] if c > 4 else x
            case "index":
                return x[:, torch.tensor([(i * 5 + n) % c for i in range(c)] if c % 5 else list(range(c))[::-1])]
            case "center":
                return x - x.mean(1, keepdim=True)
            case "repeat":
                return x.repeat_interleave(2, 1) if n % 2 else x.repeat(1, 2, 1, 1)
            case "expand":
                return x * layer[0].expand(1, c, -1, -1)
            case "write":
                y = x.clone()
                y[:, : c // 2].mul_(2.0)
                y.view(batch, c, 16)[:, :, 3:].add_(0.5)
                return y
            case "flip":
                return x.flip(1 + n % 3)
            case "pool":
                return F.avg_pool2d(x, 3, 1, 1) if n % 2 else F.max_pool2d(x, 3, 1, 1)
            case "einsum":
                return torch.einsum("bhdij,hdc->bcij", torch.einsum("bcij,chd->bhdij", x, layer[0]), layer[1])
        return layer(x)


NETWORKS = st.builds(
    Random,
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=2, max_size=8),
    st.integers(0, 20),
    st.integers(0, 3),
)
