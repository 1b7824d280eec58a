"""What the training loop costs beside one written by hand in PyTorch: seconds per step, and memory on an accelerator.

    python tests/bench/training_loop.py [--models perceptron digits resnet18] [--device cpu] [--precision 32] [--rounds 5]

Both train the same weights for the same epochs on the same batches in the same order, with AdamW, a cosine and label
smoothing of zero, and evaluate the validation split after each epoch; `finetune` on the captured graph, the other on the
model itself. The rounds of the two are interleaved, and the median of each divided. One column is the time of training
steps alone, the other that of all of it, with the copies, checks and evaluations that `finetune` makes. Data: digits' own,
or random images in memory. `--json` prints the rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from fxopt import Pipeline, Program, Workload
from fxopt.ir.transfer import put
from fxopt.numerics.compute_device import find_compute_device
from fxopt.workload import find_workload

EPOCHS, BATCH, RATE = 2, 32, 1e-3


class RandomImages:
    """Labelled noise in memory, as many batches of it as are asked for."""

    metric = "top-1"

    def __init__(self, size: int, batches: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._images = torch.randn(BATCH * (batches + 1), 3, size, size, generator=generator)
        self._labels = torch.randint(1000, (len(self._images),), generator=generator)

    def batches(self, split: str, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Any, Any]]:
        last = len(self._labels) - BATCH
        rows = torch.arange(last) if split == "train" else torch.arange(last, last + BATCH)
        if seed is not None:
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
        for some in rows.split(batch_size):
            yield (self._images[some],), self._labels[some]

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return F.cross_entropy(output, target)

    def evaluate(self, model: Callable[..., Any], split: str = "test") -> float:
        right = [
            (model(*args).argmax(1) == target).float().mean() for args, target in self.batches(split, batch_size=BATCH)
        ]
        return float(torch.stack(right).mean())


def workload(name: str, size: int, batches: int) -> Workload:
    """The digits with their data; a perceptron, or a model of torchvision, with random images."""
    if name == "digits":
        return find_workload("digits")
    inputs = lambda: ((torch.randn(2, 3, size, size),), {})  # noqa: E731
    if name == "perceptron":
        return Workload(name=name, model=lambda: perceptron(size), inputs=inputs, data=RandomImages(size, batches))
    zoo = find_workload(f"torchvision:{name}")
    return Workload(name=name, model=zoo.model, inputs=inputs, data=RandomImages(size, batches))


def perceptron(size: int) -> torch.nn.Module:
    """A network whose step takes a few milliseconds, so that what a loop costs itself is seen."""
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(3 * size * size, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1000)]
    return torch.nn.Sequential(*layers).eval()


class ByHand:
    """The loop that anybody would write."""

    def __init__(self, given: Workload, device: torch.device, precision: str) -> None:
        self.data, self.device, self.precision = given.need_data("bench"), device, precision
        self.model = given.model().to(device)
        self.steps = 0.0

    def run(self) -> None:
        model, device = self.model, self.device
        dtype = {"32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[self.precision]
        cast = lambda: torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()  # noqa: E731
        scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        many = [p for p in model.parameters() if p.dim() > 1]
        few = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": many, "weight_decay": 0.02}, {"params": few, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=RATE)
        total = EPOCHS * sum(1 for _ in self.data.batches("train", batch_size=BATCH, seed=0))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.5 * (1 + math.cos(math.pi * s / total)))
        for epoch in range(EPOCHS):
            model.train()
            began = time.perf_counter()
            for args, target in self.data.batches("train", batch_size=BATCH, seed=epoch):
                args, target = put((args, target), device)
                optimizer.zero_grad(set_to_none=True)
                with cast():
                    output = model(*args)
                loss = self.data.loss(output.float(), target)
                if not bool(loss.isfinite()):
                    raise SystemExit("the loss is not finite")
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
            wait(device)
            self.steps += time.perf_counter() - began
            model.eval()
            with torch.no_grad(), cast():
                for args, target in self.data.batches("validation", batch_size=BATCH):
                    args, target = put((args, target), device)
                    self.data.loss(model(*args).float(), target).item()
                self.data.evaluate(lambda *a: model(*put(a, device)).float().cpu(), "validation")


class Watched:
    """Data that take the time from the first batch of a training epoch to the end of its last step."""

    def __init__(self, data: Any, device: torch.device) -> None:
        self._data, self._device, self.seconds, self._counting = data, device, 0.0, True

    def batches(self, split: str, **options: Any) -> Iterator[Any]:
        """Those of the data; the time of an epoch after the first, which only counts the steps."""
        if split != "train" or self._counting:
            self._counting = False if split == "train" else self._counting
            yield from self._data.batches(split, **options)
            return
        began = time.perf_counter()
        yield from self._data.batches(split, **options)
        wait(self._device)
        self.seconds += time.perf_counter() - began

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)


def wait(device: torch.device) -> None:
    """Until the device has done all."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def ours(program: Program, given: Workload, device: torch.device, precision: str) -> float:
    """Seconds of the steps of one training."""
    data = Watched(given.data, device)
    there = Workload(name=given.name, model=given.model, inputs=given.inputs, data=data)  # type: ignore[arg-type]
    passes = f"finetune(epochs={EPOCHS}, batch_size={BATCH}, rate={RATE}, warmup=0.0, precision={precision!r})"
    Pipeline.parse(passes).run(program, workload=there, device=str(device), watchers=())
    return data.seconds


def row(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Interleaved rounds of both."""
    given = workload(name, options.size, options.batches)
    program = given.capture()
    hand = ByHand(given, device, options.precision)
    steps = EPOCHS * sum(1 for _ in hand.data.batches("train", batch_size=BATCH, seed=0))
    times: dict[str, list[float]] = {"hand": [], "hand, all": [], "fxopt": [], "fxopt, all": []}
    peaks = {"hand": 0, "fxopt": 0}
    for number in range(options.rounds + 1):
        order = ("hand", "fxopt") if number % 2 else ("fxopt", "hand")
        for side in order:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            began, hand.steps = time.perf_counter(), 0.0
            if side == "hand":
                hand.run()
            spent = hand.steps if side == "hand" else ours(program, given, device, options.precision)
            if number:  # the first warms up
                times[side].append(spent)
                times[f"{side}, all"].append(time.perf_counter() - began)
            if device.type == "cuda":
                peaks[side] = max(peaks[side], torch.cuda.max_memory_allocated(device))
    median = {key: statistics.median(values) for key, values in times.items()}
    ratios = sorted(a / b for a, b in zip(times["fxopt"], times["hand"], strict=True))
    return {
        "model": name, "device": str(device), "precision": options.precision, "steps": steps,
        "hand_ms": 1e3 * median["hand"] / steps, "fxopt_ms": 1e3 * median["fxopt"] / steps,
        "ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1],
        "ratio_all": statistics.median(a / b for a, b in zip(times["fxopt, all"], times["hand, all"], strict=True)),
        "hand_mib": peaks["hand"] >> 20, "fxopt_mib": peaks["fxopt"] >> 20,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["perceptron", "digits", "resnet18"], help="… or names of torchvision"
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:1, mps, xpu (%(default)s)")
    parser.add_argument("--precision", default="32", choices=["32", "bf16-mixed", "16-mixed"])
    parser.add_argument("--rounds", type=int, default=5, help="of each, interleaved (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of random images (%(default)s)")
    parser.add_argument("--batches", type=int, default=6, help="of random images in an epoch (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(find_compute_device(options.device))
    rows = [row(name, options, device) for name in options.models]
    if options.json:
        print(json.dumps(rows))
        return
    print(
        "| model | device | precision | by hand, ms a step | fxopt, ms a step | ratio | of all | MiB by hand | MiB fxopt |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        memory = f"{r['hand_mib']} | {r['fxopt_mib']}" if device.type == "cuda" else " | "
        print(
            f"| {r['model']} | {r['device']} | {r['precision']} | {r['hand_ms']:.2f} | {r['fxopt_ms']:.2f} | "
            f"{r['ratio']:.3f} ({r['least']:.3f} to {r['most']:.3f}) | {r['ratio_all']:.3f} | {memory} |"
        )


if __name__ == "__main__":
    main()
