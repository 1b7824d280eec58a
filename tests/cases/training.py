"""Small networks and data to train on, and the same training in plain torch."""

import copy
import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Workload

CLASSES = 4


class Blobs:
    """Four clouds of points in 6 dims that overlap; labels may be shifted out of range."""

    metric = "top-1"

    def __init__(self, shift=0, bad_epoch=None):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(240) % CLASSES + shift
        centers = torch.randn(CLASSES, 6, generator=generator)
        self.points = centers[self.labels % CLASSES] + 0.8 * torch.randn(240, 6, generator=generator)
        self.bad_epoch, self.calls = bad_epoch, 0

    def batches(self, split, *, batch_size, seed=None):
        order = torch.arange(160) if split == "train" else torch.arange(160, 240)
        if seed is not None:
            order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))]
        for rows in order.split(batch_size):
            yield (self.points[rows],), self.labels[rows]

    def loss(self, output, target):
        self.calls += output.requires_grad
        loss = F.cross_entropy(output, target)
        return loss * math.nan if self.bad_epoch and self.calls > 5 * self.bad_epoch and output.requires_grad else loss

    def evaluate(self, model, split="test"):
        (args, target) = next(self.batches(split, batch_size=500))
        return float((torch.as_tensor(model(*args)).argmax(1) == target).float().mean())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, CLASSES)
        self.norm, self.drop = nn.BatchNorm1d(16, momentum=0.3), nn.Dropout(0.2)

    def forward(self, x):
        return self.b(self.drop(F.relu(self.norm(self.a(x)))))


class Plain(Net):
    def forward(self, x):
        return self.b(F.relu(self.a(x)))


def workload(net=Net, **options):
    inputs = lambda: ((torch.zeros(2, 6),), {})  # noqa: E731
    return Workload(name="blobs", model=lambda: net().eval(), inputs=inputs, data=Blobs(**options))


def run(passes, given=None, program=None):
    given = given or workload()
    return Pipeline.parse(passes).run(program or given.capture(), workload=given, watchers=())


def weights(outcome):
    return {name: tensor.detach().clone() for name, tensor in outcome.program.tensors().items()}


def plain_torch(loss, precision="32"):
    """Metric and weights of Plain, at first and after each epoch of what finetune(…PLAIN…) is to do."""
    net, data = Plain(), Blobs()
    decayed = [p for p in net.parameters() if p.dim() > 1]
    rest = [p for p in net.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0}], lr=0.05
    )
    states, step, warm = [(data.evaluate(net, "validation"), copy.deepcopy(net.state_dict()))], 0, 2  # 10 % of 15
    for epoch in range(3):
        for args, target in data.batches("train", batch_size=32, seed=70_000 + epoch):
            factor = (step + 1) / (warm + 1) if step < warm else (1 + math.cos(math.pi * (step - warm) / 13)) / 2
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * factor
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                output = net(*args)
            loss(output.float(), args, target).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            step += 1
        states.append((data.evaluate(net, "validation"), copy.deepcopy(net.state_dict())))
    return states


PLAIN = "epochs=3, rate=0.05, batch_size=32, seed=7, clip=0.5"


def is_the_best_of(trained, states):
    best = max(metric for metric, _ in states)
    assert best > states[0][0] + 0.2, "nothing was learned"
    candidates = [state for metric, state in states if metric == best]
    return any(all(torch.allclose(trained[n], state[n], atol=1e-6) for n in trained) for state in candidates)


class Images(nn.Module):
    """A convolution, and a view that is bound to the layout of its input where ``bound``."""

    def __init__(self, bound):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.bound = nn.Conv2d(2, 8, (1, 2), padding=(0, 1)), nn.Linear(32, CLASSES), bound

    def forward(self, x):
        x = F.relu(self.conv(x.reshape(-1, 2, 1, 3)))
        return self.head(x.view(-1, 32) if self.bound else x.flatten(1))


def learned():
    """The workload with the net after some epochs in plain torch; a copy for each capture."""
    with torch.random.fork_rng():
        net, data = Net().train(), Blobs()
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for epoch in range(8):
            for args, target in data.batches("train", batch_size=40, seed=epoch):
                optimizer.zero_grad()
                data.loss(net(*args), target).backward()
                optimizer.step()
    return dataclasses.replace(workload(), model=lambda: copy.deepcopy(net).eval())
