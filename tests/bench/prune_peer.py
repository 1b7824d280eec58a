"""Channel pruning beside Torch-Pruning: does it work, is it right, how long does it take, what is left.

::

    pip install -c constraints.txt -e '.[peers]'                   # torch-pruning, beside torch and the zoo
    python tests/bench/prune_peer.py                               # the models of the table
    python tests/bench/prune_peer.py resnet18 vgg16 --sides peer   # some models, one side
    python tests/bench/prune_peer.py --all                         # every float model of torchvision but detectors

Both remove half of the channels of every group by the l1 norm of its weights, layer by layer, on torchvision's models
with random weights, batch 1, at their own image size. The peer is used as its documentation says, the layers as wide as
the output ignored, and no model is repaired by hand. Each run is a process of its own with a limit to time and memory;
the two sides take turns, and the timed models have three rounds, of which the median is shown.

* works: the pruned model runs, and its outputs have the shapes that they had
* seconds: analysis and pruning; ours without verification, with capturing beside it
* MACs: the share that is left, by torch's own FlopCounterMode on both sides
* error: relative error (``fxopt.numerics.error_metrics.relative_error``) in float64. The peer's pruned model is held against
  the dense one whose weights are zero where they read a removed channel; where a norm or an attention head is cut through, these
  differ. Ours is what verification found.

The table goes to build/prune_peer.md too.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from fxopt import Pipeline, capture
from fxopt.models.vision_import import import_torchvision
from fxopt.numerics.error_metrics import relative_error
from fxopt.workload import find_workload

TIMED = ("resnet18", "resnet50", "densenet201", "mobilenet_v2")
MODELS = (
    *TIMED, "swin_t", "vit_b_16", "shufflenet_v2_x1_0", "convnext_tiny", "raft_small", "regnet_y_400mf",
    "efficientnet_b0", "googlenet", "squeezenet1_1", "mnasnet1_0", "vgg16_bn", "resnext50_32x4d", "maxvit_t",
    "swin_v2_t", "lraspp_mobilenet_v3_large", "r3d_18",
)  # fmt: skip
PASS = "prune_channels(ratio=0.5, by='l1', scope='layer')"
COLUMNS = ("model", "side", "works", "seconds", "capture, s", "MACs left", "error", "reason")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of torchvision's models")
    parser.add_argument("--all", action="store_true", help="every float model of torchvision but detectors")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=tuple(SIDES))
    parser.add_argument("--timed", nargs="*", default=TIMED, help="models with three rounds (%(default)s)")
    parser.add_argument("--limit", type=float, default=180, help="seconds of one process (%(default)s)")
    parser.add_argument("--memory", type=float, default=12, help="address space of one process, GB (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/prune_peer.md"))
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    if "peer" in options.sides and importlib.util.find_spec("torch_pruning") is None:
        parser.error("torch-pruning is not installed: pip install -c constraints.txt -e '.[peers]', or --sides ours")
    rows = []
    for name in track(every_model() if options.all else options.models or MODELS, console=Console(stderr=True)):
        rounds = [
            {s: run_child(name, s, options) for s in options.sides} for _ in range(3 if name in options.timed else 1)
        ]
        rows += [merged([found[side] for found in rounds]) for side in options.sides]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(table(rows))
    print(table(rows), summary(rows), sep="\n")


def every_model() -> list[str]:
    models = import_torchvision().models
    names = [n for n in models.list_models() if not n.startswith("quantized_")]
    return [n for n in names if ".detection." not in models.get_model_builder(n).__module__]


def run_child(name: str, side: str, options: argparse.Namespace) -> dict[str, Any]:
    """One side on one model in a process of its own: the last that it said of itself, and why it ended if it was cut."""
    command = [sys.executable, __file__, name, "--child", side, "--memory", str(options.memory)]
    command += ["--threads", str(options.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit, check=False)
        said, end = done.stdout, "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["killed"])[-1]
    except subprocess.TimeoutExpired as error:
        said, end = (error.stdout or b"").decode(), f"more than {options.limit:.0f} s"
    lines = [line for line in said.splitlines() if line.startswith("{")]
    row = json.loads(lines[-1]) if lines else {"works": False}
    return {"model": name, "side": side} | row | ({"reason": end} if end else {})


def child(options: argparse.Namespace) -> None:
    """Run one side, saying what is known as soon as it is: a later step may be cut off."""
    limit = int(options.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is not counted
    workload = find_workload(f"torchvision:{options.models[0]}")
    model, (args, _) = workload.model(), workload.inputs()
    row: dict[str, Any] = {"works": False}
    try:
        for found in SIDES[options.child](model, args):
            row |= found
            print(json.dumps(row), flush=True)
    except Exception as error:
        lines = str(error).strip().splitlines()
        print(json.dumps(row | {"reason": f"{type(error).__name__}: {' '.join(lines)[:160]}"}), flush=True)


def ours(model: nn.Module, args: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    pipeline = Pipeline.parse(PASS)
    pipeline.run(capture(_tiny(), _TINY_ARGS), watchers=())
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = capture(model, args)
    yield {"capture, s": time.perf_counter() - start}
    start = time.perf_counter()
    pruned = pipeline.run(program, watchers=()).program
    yield {"seconds": time.perf_counter() - start}
    yield judged(model, pruned, args)
    steps = pipeline.run(program).steps
    yield {"error": max(step.findings.error or 0.0 for step in steps)}


def peer(model: nn.Module, args: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    import torch_pruning as tp

    def prune(model: nn.Module, args: tuple[Any, ...], ignored: list[nn.Module], seen: Callable[..., None]) -> None:
        importance = tp.importance.GroupMagnitudeImportance(p=1)
        pruner = tp.pruner.MagnitudePruner(model, list(args), importance, pruning_ratio=0.5, global_pruning=False,
                                           ignored_layers=ignored)  # fmt: skip
        for group in pruner.step(interactive=True):
            seen(pruner.DG, group)
            group.prune()

    prune(_tiny(), _TINY_ARGS, [], lambda *_: None)
    dense, removed = copy.deepcopy(model), Removed(model)
    ignored = widest(model, args)
    start = time.perf_counter()
    prune(model, args, ignored, removed)
    yield {"seconds": time.perf_counter() - start}
    yield judged(dense, model, args)
    yield {"error": error_of(dense, removed, model, args)}


SIDES: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {"peer": peer, "ours": ours}
_TINY_ARGS = (torch.ones(1, 3, 8, 8),)


def _tiny() -> nn.Module:
    """What both sides are warmed up on, so that imports are not timed."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


def widest(model: nn.Module, args: tuple[Any, ...]) -> list[nn.Module]:
    """The layers with as many channels as the outputs have: pruned, they would change the outputs' shapes."""
    sizes = {output.shape[1] for output in outputs_of(model, args)}
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d, nn.Linear))]
    return [m for m in layers if m.weight.shape[0] in sizes]


class Removed:
    """The input channels that the peer removes of every layer, by their numbers in the dense model."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        self.left: dict[str, list[int]] = {}
        self.gone: dict[str, list[int]] = {}

    def __call__(self, graph: Any, group: Any) -> None:
        """Note a group that is about to be pruned; its numbers count what is left by then."""
        for dep, idxs in group:
            module = dep.target.module
            if not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)):
                continue
            depthwise = isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels > 1
            if depthwise or not graph.is_in_channel_pruning_fn(dep.handler):
                continue
            name = self.names[module]
            left = self.left.setdefault(name, list(range(graph.get_in_channels(module))))
            taken = {left[i] for i in idxs}
            self.gone[name] = sorted({*self.gone.get(name, ()), *taken})
            self.left[name] = [i for i in left if i not in taken]

    def mask(self, model: nn.Module) -> None:
        """Let ``model``, a copy of the dense one, read nothing of what was removed."""
        for name, gone in self.gone.items():
            module = model.get_submodule(name)
            with torch.no_grad():
                if isinstance(module, nn.MultiheadAttention):
                    self._mask_attention(module, gone)
                elif isinstance(module, nn.Linear) or module.groups == 1:
                    module.weight.index_fill_(0 if getattr(module, "transposed", False) else 1, torch.tensor(gone), 0)
                else:
                    inner, outer = module.weight.shape[1], module.out_channels // module.groups
                    for i in gone:
                        module.weight[i // inner * outer : (i // inner + 1) * outer, i % inner] = 0

    def _mask_attention(self, module: nn.MultiheadAttention, gone: list[int]) -> None:
        """The peer takes the same numbers of the embedding and of queries, keys and values inside."""
        module.in_proj_weight[:, gone] = 0
        module.in_proj_weight[gone] = 0
        module.in_proj_bias[gone] = 0
        module.out_proj.weight[:, gone] = 0


def error_of(dense: nn.Module, removed: Removed, pruned: nn.Module, args: tuple[Any, ...]) -> float:
    removed.mask(dense)
    torch.set_default_dtype(torch.float64)  # some models make tensors on the way
    wide = pytree.tree_map(lambda v: v.double(), args)
    pairs = zip(outputs_of(dense.double(), wide), outputs_of(pruned.double(), wide), strict=True)
    return max(relative_error(want, got) for want, got in pairs)


def judged(dense: nn.Module, pruned: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
    want, got = ([tuple(o.shape) for o in outputs_of(m, args)] for m in (dense, pruned))
    if want != got:
        return {"reason": f"output shapes: {got}, were {want}"}
    return {"works": True, "MACs left": macs(pruned, args) / macs(dense, args)}


def outputs_of(model: Callable[..., Any], args: tuple[Any, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [v for v in pytree.tree_leaves(model(*args)) if isinstance(v, torch.Tensor)]


def macs(model: Callable[..., Any], args: tuple[Any, ...]) -> float:
    # attention counts as the matrix products that it is; the CPU's fused kernel is unknown to the counter
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        outputs_of(model, args)
    return flops.get_total_flops() / 2


def merged(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The first round with the median of all rounds' seconds."""
    row = dict(rounds[0])
    for column in ("seconds", "capture, s"):
        values = [found[column] for found in rounds if column in found]
        if values:
            row[column] = statistics.median(values)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    forms = {"seconds": "{:.2f}", "capture, s": "{:.1f}", "MACs left": "{:.3f}", "error": "{:.1e}", "works": "{}"}
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    for row in rows:
        shown = row | {"works": "yes" if row["works"] else "no"}
        lines.append([forms.get(c, "{}").format(shown[c]) if c in shown else "" for c in COLUMNS])
    return "\n".join(f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines) + "\n"


def summary(rows: list[dict[str, Any]]) -> str:
    lines = []
    for side in sorted({row["side"] for row in rows}):
        mine = [row for row in rows if row["side"] == side]
        works = [row for row in mine if row["works"]]
        right = [row for row in works if row.get("error", 1.0) < 1e-6]
        lines.append(f"{side}: {len(works)} of {len(mine)} work, {len(right)} with an error below 1e-6")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
