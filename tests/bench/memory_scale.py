"""How peak memory and processor time grow with a model: Llama-shaped, of 1 million weights up to what memory takes.

::

    python tests/bench/memory_scale.py                       # 1 to 110 million weights
    python tests/bench/memory_scale.py --sizes 1 4 16 64 256 1100 --ways capture clean_up --weights memory

Each point is a process of its own, on one thread, with the model as a file of safetensors, which is mapped, or read into
``memory``. Peak memory is sampled: all that is resident, with the pages of the file that the system may drop at any time,
and anonymous memory alone, which it may not; both above what the process held before the model, in MB and as a multiple of
the float32 weights. ``where`` is the stage with the anonymous peak. Below the table: the exponents of growth from the two
largest sizes and over all.

* capture: the module, and its program
* clean_up, quantize_weights, prune_channels: a captured program rewritten, proofs included
* onnx: a captured program as an ONNX file, checked
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fxopt import Pipeline, Program, capture
from fxopt.models.vision_import import import_torchvision
from fxopt.pass_manager.step import Step, StepResult
from fxopt.pass_manager.verify import Verify

SHAPES = {
    1: (64, 4, 4000), 4: (128, 8, 8000), 16: (256, 10, 16000), 40: (512, 8, 16000), 110: (768, 12, 24000),
    250: (1024, 16, 32000), 500: (1536, 14, 32000), 1100: (2048, 22, 32000),
}  # fmt: skip
"""By millions of weights: width, layers, tokens known."""

PASSES = {
    "clean_up": "clean_up", "quantize_weights": "quantize_weights(bits=4)", "prune_channels": "prune_channels(ratio=0.2)",
}  # fmt: skip
WAYS = ("capture", *PASSES, "onnx")


class Sampler(threading.Thread):
    """Samples the memory of this process; ``stage`` is what it does now."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self._now()
        self.peak, self.anonymous, self.where, self.stage = *self.before, "", ""
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until it is stopped."""
        while not self._over.wait(0.004):
            resident, anonymous = self._now()
            self.peak = max(self.peak, resident)
            if anonymous > self.anonymous:
                self.anonymous, self.where = anonymous, self.stage

    def stop(self) -> dict[str, float | str]:
        """Bytes above those before, and the stage of the peak."""
        self._over.set()
        self.join()
        return {
            "peak": self.peak - self.before[0],
            "anonymous": self.anonymous - self.before[1],
            "where": self.where,
        }

    def __call__(self, step: Step, program: Program, result: StepResult) -> contextlib.AbstractContextManager[None]:
        """As the innermost watcher: after it, the others look at the step."""
        return self._watch(step)

    @contextlib.contextmanager
    def _watch(self, step: Step) -> Iterator[None]:
        self.stage = step.pass_.name
        yield
        self.stage = f"proof of {step.pass_.name}"

    @staticmethod
    def _now() -> tuple[int, int]:
        """Bytes: resident, and those of them that are of no file."""
        facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        anonymous = int(facts["RssAnon"].split()[0])
        return 1024 * (anonymous + int(facts["RssFile"].split()[0])), 1024 * anonymous


class _Logits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens).logits  # type: ignore[no-any-return]


def _llama(size: int) -> torch.nn.Module:
    """A Llama of about so many million weights, without memory for them."""
    import_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, vocabulary = SHAPES[size]
    config = LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, intermediate_size=round(2.75 * width), vocab_size=vocabulary,
        num_attention_heads=width // 64 or 1, num_key_value_heads=max(1, width // 256), use_cache=False,
        tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return _Logits(model)


def _write(size: int, path: Path) -> None:
    """Random weights of the size of a trained network's, one at a time."""
    import safetensors.torch

    random = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(value.shape, generator=random) * (0.02 if value.dim() > 1 else 0) + (value.dim() == 1)
        for name, value in _llama(size).state_dict().items()
    }
    safetensors.torch.save_file(weights, path)


def _captured(size: int, path: Path, *, mapped: bool) -> Program:
    import safetensors.torch

    model = _llama(size)
    weights = safetensors.torch.load_file(path)
    if not mapped:
        weights = {name: value.clone() for name, value in weights.items()}
    model.load_state_dict(weights, assign=True)
    return capture(model, (torch.arange(16)[None],))


def _exported(program: Program, folder: Path) -> None:
    from fxopt.backends.onnx import Onnx
    from fxopt.target import find_target

    legal = Pipeline.parse(Onnx().legalize()).run(program).program
    Onnx().build(legal, find_target("host"), folder)


def _child(size: int, way: str, path: Path, *, mapped: bool) -> dict[str, float | str]:
    """Bytes of the weights, CPU seconds and the peaks of one way, from the file of weights on."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    _captured(1, path.with_name("1.safetensors"), mapped=mapped)  # what it imports
    if way == "onnx":
        import onnxruntime  # noqa: F401

        torch.onnx.export(torch.nn.Linear(2, 2), (torch.randn(2, 2),), dynamo=True, verbose=False)
    sampler = Sampler()
    sampler.start()
    start = _used()
    sampler.stage = "capture"
    program = _captured(size, path, mapped=mapped)
    if way in PASSES:
        start = _used()
        Pipeline.parse(PASSES[way]).run(program, watchers=(Verify(), sampler))
    elif way == "onnx":
        start = _used()
        sampler.stage = "export"
        with tempfile.TemporaryDirectory(prefix="fxopt-", dir=path.parent) as folder:
            _exported(program, Path(folder))
    seconds = _used() - start
    weights = sum(4 * tensor.numel() for tensor in program.tensors().values())
    return {"seconds": seconds, "weights": weights} | sampler.stop()


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _run(size: int, way: str, path: Path, weights: str) -> dict[str, float | str]:
    command = [
        sys.executable,
        __file__,
        "--sizes",
        str(size),
        "--ways",
        way,
        "--weights",
        weights,
        "--child",
        str(path),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{size} million, {way}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", choices=tuple(SHAPES), default=(1, 4, 16, 40, 110))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--weights", choices=("mapped", "memory"), default="mapped")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(options.sizes[0], options.ways[0], options.child, mapped=options.weights == "mapped")))
        return
    table = Table(title=f"weights {options.weights}")
    for column in (
        "way",
        "weights, M",
        "CPU s",
        "wall s",
        "peak, MB",
        "/ weights",
        "anonymous, MB",
        "/ weights",
        "where",
    ):
        table.add_column(column, justify="left" if column in ("way", "where") else "right")
    growth: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        paths = {size: Path(folder) / f"{size}.safetensors" for size in sorted({1, *options.sizes})}
        for size, path in paths.items():
            _write(size, path)
        for way in options.ways:
            found = []
            for size in options.sizes:
                begun = time.perf_counter()
                run = _run(size, way, paths[size], options.weights)
                wall = time.perf_counter() - begun
                found.append(run)
                print(f"{size} million, {way}: {run}", file=sys.stderr, flush=True)
                facts = [f"{run[key] / 1e6:.0f}" if unit else f"{run[key] / run['weights']:.2f}"  # type: ignore[operator]
                         for key in ("peak", "anonymous") for unit in (True, False)]  # fmt: skip
                seconds = f"{run['seconds']:.1f}"
                table.add_row(way, f"{run['weights'] / 4e6:.0f}", seconds, f"{wall:.0f}", *facts, str(run["where"]))  # type: ignore[operator]
            growth += [f"{way}: {_growth(found)}"] if len(found) > 1 else []
    Console(width=130).print(table, *growth, sep="\n")


def _growth(found: list[dict[str, float | str]]) -> str:
    """Exponents of growth of seconds and of the anonymous peak with the weights, of the last two and over all."""
    parts = []
    for key, what in (("seconds", "seconds"), ("anonymous", "memory")):
        points = [(math.log(float(run["weights"])), math.log(max(float(run[key]), 1e-3))) for run in found]
        last, all_of_them = (np.polyfit(*zip(*some, strict=True), 1)[0] for some in (points[-2:], points))
        parts.append(f"{what} grow with weights to the power of {all_of_them:.2f}, at the end {last:.2f}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
