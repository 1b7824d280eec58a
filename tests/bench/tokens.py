"""Tokens a second of a causal language model, beside transformers itself and beside plain exports of the same model.

::

    python tests/bench/tokens.py                                     # small_lm, one thread
    python tests/bench/tokens.py --model causal_lm:qwen3 --threads 2
    python tests/bench/tokens.py --backends onnx "onnx(operators='standard')"

Every side makes the same number of tokens after the same prompts, greedily, all in one interleaved run:

* transformers: its own ``generate`` with its cache
* export: the model by ``torch.onnx.export(dynamo=True)``, in ONNX Runtime and in OpenVINO, whose own converter from
  ``torch.export`` fails at the empty cache, both in the loop that artifacts have
* ours: ``clean_up`` and ``quantize_dynamic``, by the backends onnx and openvino, and with a cache in int8

Columns: tokens a second, of all prompts together (median, quartiles), how many times as fast as transformers, and the share
of tokens that are those of transformers. The first wrong token of a row changes all that come after it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from rich.console import Console
from rich.table import Table

import fxopt
from fxopt.backend import find_backend
from fxopt.backend.manifest import Interface
from fxopt.driver.interface import interface
from fxopt.frontend.pt2 import export_program
from fxopt.runtime.generate import Decoder, Sampling, generate
from fxopt.runtime.timing import interleave
from fxopt.workload import Workload, find_workload

Rows = list[list[int]]
Side = Callable[[], Rows]


def transformers_side(workload: Workload, prompts: torch.Tensor, tokens: int) -> Side:
    """What transformers makes, as its users call it."""
    model: Any = workload.model()

    def run() -> Rows:
        made = model.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
        )
        rows: Rows = made[:, prompts.shape[1] :].tolist()
        return rows

    return run


def loop(step: Callable[[list[Any]], list[Any]], shapes: Interface, prompts: Rows, tokens: int) -> Side:
    """Our loop around a runtime's call on flat arrays."""

    def once(ids: Any, mask: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        logits, *new = step([ids, mask, *state])
        return logits, new

    decoder = Decoder.of(shapes)
    return lambda: generate(once, decoder.empty_leaves(len(prompts)), prompts, tokens, (), Sampling(), 0)


def onnx_export(path: Path, threads: int) -> Callable[[list[Any]], list[Any]]:
    """An exporter's file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))  # type: ignore[no-any-return]


def openvino_export(path: Path, threads: int) -> Callable[[list[Any]], list[Any]]:
    """An exporter's file in OpenVINO."""
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(openvino.convert_model(path), "CPU", options).create_infer_request()

    def run(arrays: list[Any]) -> list[Any]:
        results = request.infer(arrays)
        return [results[i].copy() for i in range(len(results))]

    return run


def ours(model: str, passes: tuple[str, ...], backend: str, out: Path, prompts: Rows, tokens: int) -> Side:
    """An artifact of ours."""
    fxopt.build(fxopt.Recipe(model=model, passes=passes, backend=backend), out, measure=False)
    artifact = fxopt.load(out)
    return lambda: artifact.generate(prompts, tokens)


def sides(model: str, backends: list[str], tokens: int, batch: int, threads: int, out: Path) -> dict[str, Side]:
    """Whoever makes tokens, by name."""
    workload = find_workload(model)
    program = workload.capture()
    prompts = np.random.default_rng(0).integers(8, 200, (batch, 16))
    rows, shapes = prompts.tolist(), Interface(**dict(interface(program)))
    found: dict[str, Side] = {"transformers": transformers_side(workload, torch.from_numpy(prompts), tokens)}
    path = out / "export.onnx"
    torch.onnx.export(export_program(program), f=str(path), dynamo=True, external_data=False, verbose=False)
    found["export, ONNX Runtime"] = loop(onnx_export(path, threads), shapes, rows, tokens)
    found["export, OpenVINO"] = loop(openvino_export(path, threads), shapes, rows, tokens)
    codes = f"{model}(cache='int8')" if "(" not in model else model
    for backend in backends:
        runs = str(replace(find_backend(backend), threads=threads))
        for name, spec, passes in (
            ("float", model, ("clean_up",)),
            ("int8", model, ("clean_up", "quantize_dynamic")),
            ("int8, cache too", codes, ("clean_up", "quantize_dynamic")),
        ):
            found[f"{name}, {backend}"] = ours(spec, passes, runs, out / f"{backend} {name}", rows, tokens)
    return found


def main() -> None:
    """Read the command line, build, time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small_lm", help="a workload that generates (%(default)s)")
    parser.add_argument("--backends", nargs="+", default=["onnx", "openvino"], help="of ours (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="new ones of each prompt (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="prompts (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=11, help="of the timing (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        found = sides(options.model, options.backends, options.tokens, options.batch, options.threads, Path(folder))
        made = {name: run() for name, run in found.items()}
        timings = interleave(found, blocks=options.blocks)
    table = Table(
        "", "tokens/s", "quartiles", "x transformers", "same tokens", title=f"{options.model}, {options.batch} prompts"
    )
    count = options.tokens * options.batch
    theirs = np.array(made["transformers"])
    for name, timing in timings.items():
        low, middle, high = (1000 * count / ms for ms in (timing.ms.high, timing.ms.median, timing.ms.low))
        times = timings["transformers"].ratio(timing)
        same = float((np.array(made[name]) == theirs).mean())
        table.add_row(name, f"{middle:.0f}", f"{low:.0f}-{high:.0f}", str(times), f"{same:.0%}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
