"""Train the shipped models: ``python -m fxopt.models.train digits --out models/demo_weights/digits.safetensors``.

The same command, seed, versions and number of threads give the same file.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from fxopt.models.digits import digit_net, digits
from fxopt.models.glyphs import glyph_net, glyphs
from fxopt.models.pitch import pitch, pitch_net
from fxopt.models.shape_masks import masks_net, shape_masks
from fxopt.models.shapes import shapes, shapes_net
from fxopt.models.small_lm import lm_net, small_lm
from fxopt.models.small_vit import small_vit, vit_net
from fxopt.models.weights import save_weights
from fxopt.workload import Data, Workload


@dataclass(frozen=True)
class Training:
    """A workload, its untrained network, and how the shipped weights were made: passes over the data, highest rate."""

    workload: Callable[..., Workload]
    net: Callable[[], torch.nn.Module]
    epochs: int
    rate: float = 3e-3
    batch_size: int = 64


TRAININGS = {
    "digits": Training(digits, digit_net, 30),
    "glyphs": Training(glyphs, glyph_net, 10),
    "pitch": Training(pitch, pitch_net, 20),
    "shape_masks": Training(shape_masks, masks_net, 20),
    "shapes": Training(shapes, shapes_net, 30),
    "small_lm": Training(small_lm, lm_net, 20, batch_size=16),
    "small_vit": Training(small_vit, vit_net, 30, rate=2e-3),
}


def main(argv: list[str] | None = None) -> None:
    """Train, print the metric on validation and test data, and save the weights that did best in validation."""
    given = sys.argv[1:] if argv is None else argv
    options = _parse(given)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    training = TRAININGS[options.name]
    workload = training.workload() if options.size is None else training.workload(options.size)
    model, data = training.net(), workload.need_data("training")
    epochs, rate = options.epochs or training.epochs, options.rate or training.rate
    started = time.perf_counter()
    batch_size = options.batch_size or training.batch_size
    best = fit(model, data, epochs=epochs, batch_size=batch_size, rate=rate, seed=options.seed)
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


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fxopt.models.train", description=main.__doc__)
    parser.add_argument("name", choices=sorted(TRAININGS))
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument(
        "--epochs", type=int, help="default, as of the next two: what the shipped weights were made with"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--size", type=int, help="side of the images in pixels: 32 of glyphs, 64 of shapes")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    if not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    if options.size is not None and options.name not in ("glyphs", "shapes"):
        parser.error(f"--size: {options.name} has images of one size, or none")
    return options


if __name__ == "__main__":
    main()
