"""Attention projections at half of their size: as whole matrices, and head by head."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1]))  # digits_vit is trained by what tests share

import digits_vit

from fxopt import Pipeline, Program, capture
from fxopt.backend import Backend
from fxopt.driver.time_build import built_times
from fxopt.ir.cost import cost
from fxopt.numerics.error_metrics import sqnr
from fxopt.pass_manager.context import Context

ONLY = "only=('blocks.*.qkv', 'blocks.*.out')"
RECIPES = {
    "whole matrices: low_rank": f"unpack_qkv, low_rank(ratio=0.5, {ONLY})",
    "head by head: rotate_heads, head dims": "unpack_qkv, rotate_heads, prune_channels(ratio=0.5, units=('head_dims',))",
    "head dims as they are": "unpack_qkv, prune_channels(ratio=0.5, units=('head_dims',))",
}


class Attention(nn.Module):
    """Self-attention of 12 heads on 197 tokens of width 768, as in ViT-B."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(768, 3 * 768), nn.Linear(768, 768)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N,T,768] -> the same."""
        q, k, v = (y.unflatten(-1, (12, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def per_head(backend: Backend) -> list[str]:
    """Lines of a table: MACs, error and accuracy on a trained small ViT, latency of an attention of ViT-B's size."""
    net = digits_vit.trained()
    workload = digits_vit.workload_of(net)
    data = workload.need_data("the bench")
    program = workload.capture()
    torch.manual_seed(0)
    large = capture(Attention().eval(), (torch.randn(1, 197, 768),))
    (images,), _ = next(iter(data.batches("test", batch_size=256)))
    rows: dict[str, list[str]] = {"dense": [f"{1:.3f}", "", f"{data.evaluate(program, 'test'):.3f}"]}
    models = {"dense": large}
    for name, text in RECIPES.items():
        small = run(program, text)
        ratio = cost(small).macs / cost(program).macs
        noise = sqnr([program(images)], [small(images)])
        rows[name] = [f"{ratio:.3f}", f"{noise:.1f}", f"{data.evaluate(small, 'test'):.3f}"]
        models[name] = run(large, text.replace(f", {ONLY}", ""))
    times = built_times(models, Context(None, None, backend), "the bench", blocks=15)
    lines = [
        "| projections at half | MACs left | SQNR dB | accuracy | ViT-B: MACs left | latency ÷ dense |",
        "| --- " * 6 + "|",
    ]
    for name, cells in rows.items():
        left = cost(models[name]).macs / cost(large).macs
        lines.append(f"| {' | '.join([name, *cells, f'{left:.3f}', str(times[name].ratio(times['dense']))])} |")
    return lines


def run(program: Program, text: str) -> Program:
    """Passes without verification."""
    return Pipeline.parse(text).run(program, watchers=()).program
