"""Low-rank forms and rank rules on a ResNet-18 for drawn characters, at half of the MACs.

    python tests/bench/low_rank.py [--widths 24 48 96 192] [--epochs 10] [--finetune 3] [--examples 1500] [--rows '*']

The network, of ResNet-18's shape but narrow, is trained here. Each row decomposes it. "uniform" is the best of equal shares
of every layer: of all layers, of all but the first and those of the skips, and of the last two stages, each with the ratio
that leaves half of the MACs, the one with the best validation accuracy. The others choose ranks by themselves: by a budget of
MACs, with what is lost measured at the weights or at the outputs, "data" with activations in account; by energy and VBMF;
by measured latency; by the metric. Prints the relative error of the weights, the MACs left, the latency in ONNX Runtime
against the dense model, all timed interleaved in one run, speed-up ÷ MAC ratio (1: all that is saved in MACs is saved on
the clock), and the test accuracy at once, behind `reconstruct`, and after fine-tuning. Then the error of every convolution
beside that of the same ranks by torch.linalg and tensorly, and the time and error of attention projections as a whole and
head by head. Writes build/low_rank.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
from pathlib import Path

import torch
from layer_oracles import layer_errors
from per_head import per_head
from torch import nn

from fxopt import Pipeline, Program, capture
from fxopt.backend import find_backend
from fxopt.driver.time_build import built_times
from fxopt.ir.cost import cost
from fxopt.models.glyphs import glyphs
from fxopt.models.train import fit
from fxopt.pass_manager.context import Context
from fxopt.workload import Workload

FORMS = ("channel", "spatial", "tucker", "train")
HALF = 0.5


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


SETS = ((), ("0", "*.skip", "13"), ("0", "3", "4", "5", "6", "*.skip", "13"))
"""Which weights keep their ranks under an equal share: none; the ends and skips; the first two stages too."""


class Bench:
    """The dense program, and what is done to it."""

    def __init__(self, dense: Program, workload: Workload, options: argparse.Namespace) -> None:
        self.dense, self.workload, self.options = dense, workload, options
        self.data = workload.need_data("the bench")
        self.backend = find_backend(f"onnx(threads={options.threads})")

    def run(self, program: Program, text: str) -> Program:
        """Passes without verification."""
        return Pipeline.parse(text).run(program, workload=self.workload, backend=self.backend, watchers=()).program

    def left(self, program: Program) -> float:
        """The share of the MACs that is left."""
        return cost(program).macs / cost(self.dense).macs

    def solved(self, text: str, low: float, high: float) -> str | None:
        """The options with a number from ``low``, that leaves too much, to ``high``, so that half of the MACs are left."""

        def fits(number: float) -> bool:
            return self.left(self.run(self.dense, f"low_rank({text.format(f'{number:.3f}')})")) <= HALF

        if not fits(high):
            return None
        for _ in range(5):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return text.format(f"{high:.3f}")

    def uniform(self, form: str) -> str:
        """The best equal share, by the accuracy on the validation split."""
        texts = [self.solved(f"form='{form}', ratio={{}}, keep={keep!r}", 0.4, 0.8) for keep in SETS]

        def score(text: str) -> float:
            return self.data.evaluate(self.run(self.dense, f"low_rank({text})"), "validation")

        return max((text for text in texts if text), key=score)

    def rows(self, pattern: str) -> dict[str, str]:
        """Options of low_rank by the name of the row, of the rows whose names fit."""
        aware = "data_aware=True, samples=256"
        found = {"cp, uniform": "form='cp', ratio=0.5"}
        for form in FORMS:
            found[f"{form}, uniform"] = ""
            found[f"{form}, macs"] = f"form='{form}', macs=0.5"
            found[f"{form}, macs, data"] = f"form='{form}', macs=0.5, {aware}"
        found["auto, macs"] = "macs=0.5"
        found["auto, macs, data"] = f"macs=0.5, {aware}"
        found["auto, macs, data, outputs"] = f"macs=0.5, by='outputs', {aware}"
        found["auto, energy"] = ""
        found["auto, VBMF"] = "vbmf=True"
        found["auto, metric_drop 0.02"] = f"metric_drop=0.02, {aware}"
        found["auto, latency 0.8"] = f"latency='0.8x', {aware}"
        found["auto, latency 0.8, multiple"] = f"latency='0.8x', multiple='target', {aware}"
        wanted = {name: text for name, text in found.items() if fnmatch.fnmatch(name, pattern)}
        for name in wanted:
            if name.endswith("uniform") and not wanted[name]:
                wanted[name] = self.uniform(name.partition(",")[0])
            elif name.endswith("energy"):
                wanted[name] = self.solved("energy={}", 0.98, 0.3) or "energy=0.3"
        return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs=4, type=int, default=[24, 48, 96, 192])
    parser.add_argument("--epochs", type=int, default=10, help="of the dense model (%(default)s)")
    parser.add_argument("--finetune", type=int, default=3, help="epochs after each decomposition (%(default)s)")
    parser.add_argument("--examples", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", default="*", help="names of rows, with wildcards (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    workload = glyphs(examples=options.examples)
    data = workload.need_data("the bench")
    torch.manual_seed(0)
    model = resnet18(options.widths, 45)
    model.load_state_dict(fit(model, data, epochs=options.epochs, batch_size=64, rate=3e-3, seed=0))  # type: ignore[arg-type]
    dense = capture(model.eval().to(memory_format=torch.contiguous_format), (torch.randn(1, 1, 32, 32),))
    bench = Bench(dense, workload, options)
    report = [f"dense: {cost(dense).macs:,} MACs, test accuracy {data.evaluate(dense, 'test'):.4f}", ""]
    print(report[0], flush=True)
    programs, cells = {"dense": dense}, {}
    for name, text in bench.rows(options.rows).items():
        truncated = bench.run(dense, f"truncate_rank({text})")
        low = bench.run(truncated, "factorize")
        refitted = bench.run(dense, f"low_rank({text}), reconstruct(samples=256)")
        tuned = bench.run(low, f"finetune(epochs={options.finetune})")
        programs[name] = tuned
        accuracies = [f"{data.evaluate(program, 'test'):.3f}" for program in (low, refitted, tuned)]
        cells[name] = [text, f"{weight_error(dense, truncated):.3f}", *accuracies]
        print(name, f"{bench.left(low):.3f}", *cells[name], flush=True)
    ready = {name: bench.run(program, "clean_up, fold_batch_norm") for name, program in programs.items()}
    context = Context(workload, None, bench.backend)
    times = built_times(ready, context, "the bench", blocks=21)
    report += ["| form, rule | options | MACs left | weight error | latency ÷ dense | speed-up ÷ MAC ratio "
               "| accuracy | reconstructed | fine-tuned |", "| --- " * 9 + "|"]  # fmt: skip
    for name, (text, error, *accuracies) in cells.items():
        left, ratio = bench.left(programs[name]), times[name].ratio(times["dense"])
        row = [name, f"`{text}`", f"{left:.3f}", error, str(ratio), f"{left / ratio.median:.2f}", *accuracies]
        report.append(f"| {' | '.join(row)} |")
    report += ["", *layer_errors(dense, functools.partial(bench.run, dense)), "", *per_head(bench.backend)]
    print("\n" + "\n".join(report))
    Path("build").mkdir(exist_ok=True)
    Path("build/low_rank.md").write_text("\n".join(report) + "\n")


def weight_error(dense: Program, truncated: Program) -> float:
    """Norm of what all weights lost, relative to their norm."""
    new = truncated.tensors()
    pairs = [(old, new[name]) for name, old in dense.tensors().items() if old.dim() > 1]
    lost = sum(float((old - now).detach().square().sum()) for old, now in pairs)
    return (lost / sum(float(old.detach().square().sum()) for old, _ in pairs)) ** 0.5


if __name__ == "__main__":
    main()
