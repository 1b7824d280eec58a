"""A workload that is made in a moment: images with a bright row, the class is which; a small residual net that learns it."""

import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Workload

CLASSES, SIDE = 4, 6
COUNT = {"train": 128, "validation": 64, "test": 64}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = x + torch.relu(self.second(x))
        return self.last(x[:, :, :CLASSES].amax(3).flatten(1).unflatten(1, (16, CLASSES)).mean(2))


class Stripes:
    """``part`` takes every other validation image, from that one on."""

    metric = "top-1"

    def __init__(self, part=None):
        self.part = part

    def half(self, index):
        return Stripes(index)

    def batches(self, split, *, batch_size, seed=None):
        x, y = self._split(split)
        if seed is not None:
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
            x, y = x[order], y[order]
        for some, wanted in zip(x.split(batch_size), y.split(batch_size), strict=True):
            yield (some,), wanted

    def loss(self, output, target):
        return F.cross_entropy(output, target)

    def evaluate(self, model, split="test"):
        _, y = self._split(split)
        with torch.no_grad():
            pairs = [(torch.as_tensor(model(*args)), target) for args, target in self.batches(split, batch_size=32)]
        return sum(int((scores.argmax(1) == target).sum()) for scores, target in pairs) / len(y)

    def _split(self, split):
        count = COUNT[split]
        y = torch.arange(count) % CLASSES
        x = torch.randn(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(list(COUNT).index(split)))
        x[torch.arange(count), 0, y] += (y.float() + 2)[:, None]
        if self.part is not None and split == "validation":
            x, y = x[self.part :: 2], y[self.part :: 2]
        return x, y


def trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, data = Net(), Stripes()
        optimizer = torch.optim.Adam(net.parameters(), 2e-2)
        for epoch in range(12):
            for args, target in data.batches("train", batch_size=32, seed=epoch):
                optimizer.zero_grad()
                data.loss(net(*args), target).backward()
                optimizer.step()
    return net.eval()


def stripes() -> Workload:
    """Images with a bright row."""
    x = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    return Workload(name="stripes", model=trained, inputs=lambda: ((x,), {}), data=Stripes())
