"""What proofs cost: CPU seconds of exact passes bare, proved region by region, and proved end to end.

::

    python tests/bench/proof_cost.py --rounds 3

The three are run in turn on fresh copies of the same program; the least of the rounds is shown, with the ratios.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from fxopt import Pipeline, Program, capture
from fxopt.models.vision_import import import_torchvision
from fxopt.pass_manager import exact_proof
from fxopt.pass_manager.verify import Verify

CASES: dict[str, tuple[str, str, int]] = {
    "many regions": ("fold_batch_norm", "resnet18", 112),
    "many, depthwise": ("fold_batch_norm", "mobilenet_v2", 112),
    "few regions": ("drop_noop", "vgg11", 64),
}
"""By what it shows: the pass, the model and the pixels of its input."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    models = import_torchvision().models
    table = Table(title=f"CPU seconds, least of {rounds} rounds")
    for column in ("case", "pass", "regions", "bare", "by regions", "end to end", "by regions / bare", "/ end to end"):
        table.add_column(column)
    for case, (name, model, size) in CASES.items():
        torch.manual_seed(0)
        program = capture(getattr(models, model)().eval(), (torch.randn(2, 3, size, size),))
        bare, local, whole = [], [], []
        for _ in range(rounds):
            bare.append(_seconds(program, name, None)[0])
            seconds, regions = _seconds(program, name, Verify())
            local.append(seconds)
            with mock.patch.object(exact_proof, "prove_locally", return_value=None):
                whole.append(_seconds(program, name, Verify())[0])
        a, b, c = min(bare), min(local), min(whole)
        row = (f"{a:.2f}", f"{b:.2f}", f"{c:.2f}", f"{b / a:.1f}", f"{b / c:.1f}")
        table.add_row(case, name, str(regions), *row)
    Console().print(table)


def _seconds(program: Program, name: str, watcher: Verify | None) -> tuple[float, int]:
    pipeline = Pipeline.parse(name)
    start = time.process_time()
    (step,) = pipeline.run(program, watchers=(watcher,) if watcher else ()).steps
    return time.process_time() - start, step.findings.regions or 0


if __name__ == "__main__":
    main()
