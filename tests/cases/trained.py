"""Small networks that are trained on a workload's data, and the workload with such a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from fxopt.workload import Workload, find_workload

Net = TypeVar("Net", bound=nn.Module)


def trained(build: Callable[[], Net], workload: str, *, epochs: int, lr: float, weight_decay: float, seed: int) -> Net:
    """The network trained by AdamW in one cycle of the learning rate, in evaluation mode; equal weights for a seed."""
    data = find_workload(workload).need_data("training")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build().train()
    steps = epochs * sum(1 for _ in data.batches("train", batch_size=64))
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for epoch in range(epochs):
        for (images,), labels in data.batches("train", batch_size=64, seed=epoch):
            optimizer.zero_grad()
            data.loss(net(images), labels).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def with_network(workload: str, name: str, net: nn.Module) -> Workload:
    """The workload under another name, with another network."""
    other = find_workload(workload)
    return Workload(name=name, model=lambda: net, inputs=other.inputs, data=other.data)
