"""Sub-networks of one supernet, each beside a net that was pruned and distilled for itself.

    python tests/bench/supernet.py [--model glyphs] [--epochs 24] [--nets 8] [--ranked 12] [--tuned 2] [--threads 2] [--long]

Two tables and a figure, all on held-out test images, written to build/supernet.md:

nets    sub-networks over a fourfold range of MACs: the one of least divergence in each range, proved equal to the supernet's
        own in float64, and its top-1 with the weights of the supernet; beside it prune_channels to the same MACs and distill,
        where all of these nets together are trained for as many epochs as the supernet; with --long also for as many epochs each.
tau     Kendall's tau, with its p value, between the divergence of sub-networks in the supernet and their loss of top-1 after
        a short distillation each.
seconds of the training of the supernet, and of all other nets.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from scipy.stats import kendalltau
from torch.utils import _pytree as pytree

from fxopt import Context, Pipeline, Program
from fxopt.automl.evaluator import divergence
from fxopt.ir.cost import cost
from fxopt.passes.supernet.supernet import Supernet
from fxopt.workload import Workload, find_workload

TAUGHT = "rate=3e-3, temperature=2.0, soft=0.7"
LEAST = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="glyphs")
    parser.add_argument(
        "--epochs", type=int, default=24, help="of the supernet, and of all other nets together (%(default)s)"
    )
    parser.add_argument(
        "--nets", type=int, default=8, help="sub-networks, from a quarter of the MACs to all (%(default)s)"
    )
    parser.add_argument("--ranked", type=int, default=12, help="sub-networks of Kendall's tau (%(default)s)")
    parser.add_argument("--tuned", type=int, default=2, help="epochs of each of these (%(default)s)")
    parser.add_argument("--drawn", type=int, default=160, help="sub-networks to choose from (%(default)s)")
    parser.add_argument("--long", action="store_true", help="train the other nets for as many epochs each, too")
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/supernet.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = run(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def run(options: argparse.Namespace) -> list[str]:
    work = find_workload(options.model)
    original = work.capture()
    dense, top = cost(original).macs, top1(original, work)
    began = time.perf_counter()
    trained = after(f"sort_channels, train_supernet(epochs={options.epochs}, least={LEAST})", original, work)
    seconds = {"the supernet": time.perf_counter() - began}
    net = Supernet(trained, Context(work))
    drawn = list(dict.fromkeys(net.draw(net.offered(), options.drawn, LEAST, 0)))
    scores = scored(net, original, work, drawn)
    lines = [
        f"{options.model}: top-1 {top:.4f} on test images, the whole behind training {top1(trained, work):.4f}",
        "",
    ]
    each = max(1, round(options.epochs / options.nets))
    alone_epochs = [each, options.epochs] if options.long else [each]
    head = ["MACs", "proof", "sub-network", *(f"pruned, {n} epochs" for n in alone_epochs)]
    lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    began = time.perf_counter()
    for low, high in ranges(options.nets):
        inside = [s for s in drawn if low <= net.costs(*s)["macs"] / dense <= high]
        if not inside:
            continue
        best = min(inside, key=scores.__getitem__)
        share = net.costs(*best)["macs"] / dense
        small = after(", ".join(net.passes(*best)), trained, work)
        row = [f"{share:.2f}", f"{net.proof(*best):.1e}", f"{top1(small, work):.4f}"]
        for epochs in alone_epochs:
            alone = f"prune_channels(macs={share}, scope='isomorphic', by='taylor'), distill(epochs={epochs}, {TAUGHT})"
            row.append(f"{top1(after(alone, original, work), work):.4f}")
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    seconds["the others"] = time.perf_counter() - began
    ranked = drawn[:: max(1, len(drawn) // options.ranked)][: options.ranked]
    losses = []
    for subnet in ranked:
        passes = f"{', '.join(net.passes(*subnet))}, distill(epochs={options.tuned}, {TAUGHT})"
        small = Pipeline.parse(passes).run(trained, workload=work, watchers=()).program
        losses.append(top - top1(small, work))
    tau, p = kendalltau([scores[s] for s in ranked], losses)
    lines += ["", f"Kendall's tau over {len(ranked)} sub-networks: {tau:.2f} (p {p:.2g})", ""]
    return lines + [f"{name}: {value:.0f} s" for name, value in seconds.items()]


def after(passes: str, program: Program, work: Workload) -> Program:
    return Pipeline.parse(passes).run(program, workload=work, watchers=()).program


def top1(program: Program, work: Workload) -> float:
    return work.need_data("bench").evaluate(program, "test")


def ranges(count: int) -> list[tuple[float, float]]:
    """Equal ratios from LEAST to 1."""
    ends = [LEAST ** (1 - i / count) for i in range(count + 1)]
    return list(zip(ends, [*ends[1:-1], 1.0], strict=False))


def scored(net: Supernet, original: Program, work: Workload, drawn: list) -> dict:
    batches = [pytree.tree_leaves(args) for args, _ in work.need_data("bench").batches("validation", batch_size=64)][:4]
    with torch.no_grad():
        wanted = [pytree.tree_leaves(original.module(*batch)) for batch in batches]
    return {subnet: divergence(wanted, net.outputs(*subnet, batches)) for subnet in drawn}


if __name__ == "__main__":
    main()
