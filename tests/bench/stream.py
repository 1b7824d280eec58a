"""Half of the MACs with the residual stream narrowed, beside heads and perceptrons alone: top-1, no training.

::

    python tests/bench/stream.py [--epochs 30]

Two small transformers are trained on the digits: a vision transformer with norms before its branches, and an encoder with
norms behind its sums, which reads the rows of an image as tokens. Each is pruned to a share of its MACs in several ways, as
it is and with ``reconstruct`` behind. There are 450 test images, so that differences below a point or two say nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))  # digits_vit is trained by what tests share

import cases.trained
import digits_vit

from fxopt import Pipeline
from fxopt.errors import FxoptError
from fxopt.ir.cost import cost
from fxopt.workload import Workload

WIDTH, HEADS, DEPTH = 64, 4, 3
RMS = "layer_norm_to_rms_norm(matrices={m})"
WAYS = {
    "heads and MLP, l2": "prune_channels(macs={macs}, scope='global')",
    "heads and MLP, wanda": "prune_channels(macs={macs}, scope='global', by='wanda')",
    "stream as it is, l2": f"{RMS}, prune_channels(macs={{macs}}, scope='global')",
    "stream as it is, wanda": f"{RMS}, prune_channels(macs={{macs}}, scope='global', by='wanda')",
    "stream rotated, wanda": f"{RMS}, rotate_stream(matrices={{m}}), prune_channels(macs={{macs}}, scope='global', by='wanda')",
}
"""Budgets are MACs, as the matrices that are inserted are to be paid from them."""


class Block(nn.Module):
    """Post-norm attention and perceptron: float32 [N,T,WIDTH] -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm(x + self.out(attended))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    """BERT's blocks over the 8 rows of an image: float32 [N,1,8,8] -> scores [N,10], of the mean over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, WIDTH), nn.Parameter(torch.randn(1, 8, WIDTH) * 0.02)
        self.norm, self.blocks = nn.LayerNorm(WIDTH), nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(images.flatten(1, 2)) + self.position)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def encoder(epochs: int) -> Workload:
    """The digits with a trained encoder."""
    net = cases.trained.trained(Encoder, "digits", epochs=epochs, lr=2e-3, weight_decay=0.02, seed=0)
    return cases.trained.with_network("digits", "encoder", net)


def compare(workload: Workload, matrices: float) -> None:
    """Print one table."""
    program = workload.capture()
    data = workload.need_data("measuring")
    dense = cost(program).macs
    print(f"\n{workload.name}: top-1 {data.evaluate(program.module):.1%}, {dense:,} MACs")
    print(f"{'':26}  MACs   top-1   reconstructed")
    for macs in (0.7, 0.5):
        for name, passes in WAYS.items():
            text = passes.format(macs=int(macs * dense), m=matrices)
            try:
                small = Pipeline.parse(text).run(program, workload=workload, watchers=()).program
                refitted = Pipeline.parse(f"{text}, reconstruct").run(program, workload=workload, watchers=()).program
            except FxoptError as error:
                print(f"{name:26}  {error.what.splitlines()[0]}", flush=True)
                continue
            share = cost(small).macs / dense
            scores = [data.evaluate(p.module) for p in (small, refitted)]
            print(f"{name:26}  {share:4.0%}   {scores[0]:5.1%}   {scores[1]:5.1%}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    epochs = parser.parse_args().epochs
    compare(digits_vit.workload_of(digits_vit.trained(epochs)), 0.05)
    compare(encoder(epochs), 0.2)
