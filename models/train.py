"""Train the shipped models: ``python -m fxopt.models.train digits --out models/demo_weights/digits.safetensors``.

The same command, seed, versions and number of threads give the same file.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from fxopt.models.digits import digit_net, digits
from fxopt.models.glyphs import glyph_net, glyphs
from fxopt.models.shapes import shapes, shapes_net
from fxopt.models.weights import save_weights
from fxopt.workload import Data, Workload

EPOCHS = {"digits": 30, "glyphs": 10, "shapes": 30}
"""Passes over the training data that the shipped weights were made with."""


def main(argv: list[str] | None = None) -> None:
    """Train, print the metric on validation and test data, and save the weights that did best in validation."""
    given = sys.argv[1:] if argv is None else argv
    options = _parse(given)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    workload, model = _untrained(options.name, options.size)
    data = workload.need_data("training")
    epochs = options.epochs or EPOCHS[options.name]
    started = time.perf_counter()
    best = fit(model, data, epochs=epochs, batch_size=options.batch_size, rate=options.rate, seed=options.seed)
    seconds = time.perf_counter() - started
    model.load_state_dict(best)
    validation, test = data.evaluate(model, "validation"), data.evaluate(model, "test")
    print(f"{data.metric}: validation {validation:.4f}, test {test:.4f}; {epochs} epochs in {seconds:.0f} s")
    metadata = {
        "command": " ".join(["python -m fxopt.models.train", *given]),
        "seed": str(options.seed),
        "epochs": str(epochs),
        "metric": data.metric,
        "validation": f"{validation:.6f}",
        "test": f"{test:.6f}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    save_weights(options.out, model, metadata)
    print(f"saved {options.out} ({options.out.stat().st_size / 1e6:.2f} MB)")


def fit(
    model: torch.nn.Module, data: Data, *, epochs: int, batch_size: int, rate: float, seed: int
) -> dict[str, torch.Tensor]:
    """Train in place with AdamW and a one-cycle schedule; return the state that did best in validation.

    Equal validation metrics are decided by the lower validation loss. The model is left in evaluation mode.
    """
    steps = sum(1 for _ in data.batches("train", batch_size=batch_size))
    optimizer = torch.optim.AdamW(_decayed(model), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps, pct_start=0.2)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    best: tuple[float, float] = (-1.0, 0.0)
    state: dict[str, torch.Tensor] = {}
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=epochs * steps)
        for epoch in range(epochs):
            model.train()
            for args, target in data.batches("train", batch_size=batch_size, seed=seed * 10_000 + epoch):
                optimizer.zero_grad(set_to_none=True)
                data.loss(model(*args), target).backward()
                optimizer.step()
                schedule.step()
                progress.advance(task)
            model.eval()
            reached = (data.evaluate(model, "validation"), -_mean_loss(model, data))
            progress.update(task, description=f"validation {reached[0]:.4f}")
            if reached > best:
                best, state = reached, copy.deepcopy(model.state_dict())
    return state


def _decayed(model: torch.nn.Module) -> list[dict[str, object]]:
    """Weight decay for the weights of layers only: biases and batch norm are left free."""
    wide = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": wide, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]


def _mean_loss(model: torch.nn.Module, data: Data) -> float:
    with torch.no_grad():
        losses = [float(data.loss(model(*args), t)) for args, t in data.batches("validation", batch_size=100)]
    return sum(losses) / len(losses)


def _untrained(name: str, size: int | None) -> tuple[Workload, torch.nn.Module]:
    """The workload and its network: of a detector what is captured, without its tail."""
    if name == "digits":
        return digits(), digit_net()
    return (glyphs(size or 32), glyph_net()) if name == "glyphs" else (shapes(size or 64), shapes_net())


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fxopt.models.train", description=main.__doc__)
    parser.add_argument("name", choices=sorted(EPOCHS))
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, help="side of the images in pixels: 32 of glyphs, 64 of shapes")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    if not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    return options


if __name__ == "__main__":
    main()
