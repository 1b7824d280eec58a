"""Low-rank forms and rank rules on a ResNet-18 for drawn characters, at half of the MACs.

    python tests/bench/low_rank.py [--widths 24 48 96 192] [--epochs 10] [--finetune 3] [--examples 1500]

The network, of ResNet-18's shape but narrow, is trained here. Each row decomposes it: with an equal share of every layer
("ratio"), or ranks chosen by energy (so that half is left), VBMF, or a budget; "data"
is the data-aware variant. Prints the relative error of the weights, the MACs left, the latency in ONNX Runtime against the
dense model, all timed interleaved in one run, speed-up ÷ MAC ratio (1: all that is saved in MACs is saved on the
clock), and the test accuracy before and after fine-tuning. Writes build/low_rank.md.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path

import torch
from torch import nn

from fxopt import Pipeline, Program, capture
from fxopt.backend import find_backend
from fxopt.cost import cost
from fxopt.lowering import lower
from fxopt.measure import interleave
from fxopt.models.glyphs import glyphs
from fxopt.models.train import fit
from fxopt.target import host
from fxopt.workload import Workload

ROWS = {
    "channel, ratio": "form='channel', ratio=0.5",
    "spatial, ratio": "form='spatial', ratio=0.5",
    "tucker, ratio": "form='tucker', ratio=0.5",
    "train, ratio": "form='train', ratio=0.5",
    "tucker, energy": "form='tucker', energy={}",
    "tucker, VBMF": "form='tucker', vbmf=True",
    "channel, macs": "form='channel', macs=0.5",
    "spatial, macs": "form='spatial', macs=0.5",
    "tucker, macs": "form='tucker', macs=0.5",
    "channel, macs, data": "form='channel', macs=0.5, data_aware=True, samples=256",
    "spatial, macs, data": "form='spatial', macs=0.5, data_aware=True, samples=256",
    "tucker, macs, data": "form='tucker', macs=0.5, data_aware=True, samples=256",
    "cp, ratio": "form='cp', ratio=0.5",
}
"""Options of low_rank by name; a number in the place of {} is found so that half of the MACs are left."""


class Block(nn.Module):
    """Two 3x3 convolutions beside a skip, which has a 1x1 convolution where the shape changes."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs))
        same = ins == outs and stride == 1
        short = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))
        self.skip = nn.Identity() if same else short

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(skip(x) + f(x))."""
        return torch.relu(self.skip(x) + self.second(self.first(x)))


def resnet18(widths: list[int], classes: int) -> nn.Sequential:
    """Four stages of two blocks behind a convolution of stride 2."""
    layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for before, width in zip([widths[0], *widths], widths, strict=False):
        layers += [Block(before, width, 1 if width == widths[0] else 2), Block(width, width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs=4, type=int, default=[24, 48, 96, 192])
    parser.add_argument("--epochs", type=int, default=10, help="of the dense model (%(default)s)")
    parser.add_argument("--finetune", type=int, default=3, help="epochs after each decomposition (%(default)s)")
    parser.add_argument("--examples", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    workload = glyphs(examples=options.examples)
    data = workload.need_data("the bench")
    torch.manual_seed(0)
    model = resnet18(options.widths, 45)
    model.load_state_dict(fit(model, data, epochs=options.epochs, batch_size=64, rate=3e-3, seed=0))  # type: ignore[arg-type]
    dense = capture(model.eval().to(memory_format=torch.contiguous_format), (torch.randn(1, 1, 32, 32),))
    print(f"dense: {cost(dense).macs:,} MACs, test accuracy {data.evaluate(dense, 'test'):.4f}", flush=True)
    programs, cells = {"dense": dense}, {}
    for name, text in ROWS.items():
        text = solved(text, dense, workload)
        truncated = Pipeline.parse(f"truncate_rank({text})").run(dense, workload=workload, watchers=()).program
        low = Pipeline.parse("factorize").run(truncated, watchers=()).program
        tuned = Pipeline.parse(f"finetune(epochs={options.finetune})").run(low, workload=workload, watchers=()).program
        programs[name] = tuned
        accuracies = [f"{data.evaluate(program, 'test'):.4f}" for program in (low, tuned)]
        cells[name] = [text, f"{weight_error(dense, truncated):.3f}", *accuracies]
        print(name, f"{cost(low).macs / cost(dense).macs:.3f}", *cells[name], flush=True)
    ratios = latencies(programs, workload, options.threads)
    lines = ["| form, rule | options | MACs left | weight error | latency ÷ dense | speed-up ÷ MAC ratio "
             "| accuracy | after fine-tuning |", "| --- " * 8 + "|"]  # fmt: skip
    for name, (text, error, before, after) in cells.items():
        left = cost(programs[name]).macs / cost(dense).macs
        row = [name, f"`{text}`", f"{left:.3f}", error, str(ratios[name]), f"{left / ratios[name].median:.2f}"]
        lines.append(f"| {' | '.join([*row, before, after])} |")
    print("\n" + "\n".join(lines))
    Path("build").mkdir(exist_ok=True)
    Path("build/low_rank.md").write_text("\n".join(lines) + "\n")


def solved(text: str, dense: Program, workload: Workload) -> str:
    """The options with a number that leaves half of the MACs at most, to about two hundredths."""
    if "{}" not in text:
        return text
    low, high = 0.98, 0.3
    for _ in range(5):
        middle = (low + high) / 2
        passes = Pipeline.parse(f"low_rank({text.format(f'{middle:.4f}')})")
        small = passes.run(dense, workload=workload, watchers=()).program
        low, high = (low, middle) if cost(small).macs <= 0.5 * cost(dense).macs else (middle, high)
    return text.format(f"{high:.4f}")


def weight_error(dense: Program, truncated: Program) -> float:
    """Norm of what all weights lost, relative to their norm."""
    new = truncated.tensors()
    pairs = [(old, new[name]) for name, old in dense.tensors().items() if old.dim() > 1]
    lost = sum(float((old - now).detach().square().sum()) for old, now in pairs)
    return (lost / sum(float(old.detach().square().sum()) for old, _ in pairs)) ** 0.5


def latencies(programs: dict[str, Program], workload: Workload, threads: int):  # type: ignore[no-untyped-def]
    """Latency of each program against the dense one in ONNX Runtime, all timed side by side."""
    backend = find_backend(f"onnx(threads={threads})")
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for i, (name, program) in enumerate(programs.items()):
            place = Path(folder) / str(i)
            place.mkdir()
            ready = Pipeline.parse("clean_up, fold_batch_norm").run(program, watchers=()).program
            _, built = lower(ready, backend, host(), place, workload=workload)
            runs[name] = functools.partial(built, *program.args)
        times = interleave(runs, blocks=21)
    return {name: time.ratio(times["dense"]) for name, time in times.items()}


if __name__ == "__main__":
    main()
