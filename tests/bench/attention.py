"""Transformers in float in ONNX Runtime: ours beside torch's export, as it is and as ONNX Runtime's own optimizer leaves it.

::

    python tests/bench/attention.py                                  # small_vit and configurations of BERT, ViT, DeiT
    python tests/bench/attention.py --models bert --threads 2

The optimizer is ``onnxruntime.transformers.optimizer`` with the model's type. All are timed in one run, in interleaved blocks;
ratios to torch's export are taken round by round, with their quartiles. What each file's attention became is in the last column.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.transformers import optimizer
from rich.console import Console
from rich.table import Table

from fxopt import Program, capture
from fxopt.backend import Runner, find_backend
from fxopt.backends.onnx.runtime import MODEL_FILE, make_runner
from fxopt.driver.lower import lower
from fxopt.models.vision_import import import_transformers
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.runtime.timing import interleave
from fxopt.target.detect import host
from fxopt.workload import find_workload

KINDS = {"small_vit": "vit", "bert": "bert", "vit": "vit", "deit": "vit"}
FUSED = ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "BiasGelu", "FusedMatMul", "Softmax", "MatMul")


class Hidden(torch.nn.Module):
    """A model of transformers with its last hidden state for its only output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        found = self.model(x) if mask is None else self.model(x, attention_mask=mask)
        return found.last_hidden_state  # type: ignore[no-any-return]


def made(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A model with random weights, but for small_vit's, and its inputs."""
    if name == "small_vit":
        workload = find_workload(name)
        model: Any = workload.model()
        return model.eval(), workload.inputs()[0]
    transformers = import_transformers()
    size = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 768}
    torch.manual_seed(0)
    if name == "bert":
        model = transformers.BertModel(transformers.BertConfig(vocab_size=3000, **size), add_pooling_layer=False)
        return Hidden(model).eval(), (torch.randint(3000, (2, 48)), torch.ones(2, 48, dtype=torch.int64))
    kind = "ViT" if name == "vit" else "DeiT"
    config = getattr(transformers, f"{kind}Config")(image_size=96, patch_size=16, **size)
    model = getattr(transformers, f"{kind}Model")(config, add_pooling_layer=False)
    return Hidden(model).eval(), (torch.randn(2, 3, 96, 96),)


def runners(name: str, threads: int, folder: Path) -> tuple[dict[str, Runner], dict[str, Path], Program]:
    """What runs each file, by who made it."""
    model, inputs = made(name)
    program = capture(model, inputs)
    small = Pipeline.parse("fold_batch_norm, clean_up").run(program, watchers=()).program
    backend = find_backend(f"onnx(threads={threads})")
    (folder / "ours").mkdir()
    lower(small, backend, host(), folder / "ours")
    files = {
        "ours": folder / "ours" / MODEL_FILE,
        "export": folder / "export.onnx",
        "optimizer": folder / "optimizer.onnx",
    }
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    torch.onnx.export(
        model, inputs, files["export"], dynamo=True, dynamic_shapes=tuple(batch for _ in inputs), verbose=False
    )
    optimizer.optimize_model(
        str(files["export"]), model_type=KINDS[name], num_heads=0, hidden_size=0, opt_level=1
    ).save_model_to_file(str(files["optimizer"]))
    return {who: make_runner(path, threads, "all", True) for who, path in files.items()}, files, program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=21, help="timed blocks of each file (%(default)s)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    table = Table("model", "batch", "file", "ms", "to export", "largest error", "nodes")
    for name in options.models:
        for batch in (1, 8):
            with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
                rows(table, name, batch, options, Path(folder))
    Console(width=180).print(table)


def rows(table: Table, name: str, batch: int, options: argparse.Namespace, folder: Path) -> None:
    run, files, program = runners(name, options.threads, folder)
    leaves = [leaf[:1].repeat(batch, *(1,) * (leaf.dim() - 1)) for leaf in program.example_leaves()]
    want, arrays = program.module(*leaves), [leaf.numpy() for leaf in leaves]
    calls = {who: (lambda runner=runner: runner(arrays)) for who, runner in run.items()}
    times = interleave(calls, blocks=options.blocks)
    for who, path in files.items():
        error = (torch.as_tensor(run[who](arrays)[0]) - want).abs().max().item()
        kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
        fused = ", ".join(f"{kinds[kind]} {kind}" for kind in FUSED if kinds[kind])
        ratio = str(times[who].ratio(times["export"]))
        table.add_row(
            name, str(batch), who, str(times[who].ms), ratio, f"{error:.1e}", f"{sum(kinds.values())}: {fused}"
        )


if __name__ == "__main__":
    main()
