"""A pass run as in the contract, and checks of the program after every run."""

from __future__ import annotations

import torch

from fxopt import registry
from fxopt.backend import Backend
from fxopt.ir.program import Program
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.pipeline import Outcome, Pipeline
from fxopt.pass_manager.step import Watcher
from fxopt.pass_manager.verify import Verify
from fxopt.runtime.timing import briefly
from fxopt.target.detect import host
from fxopt.testing.contract import require
from fxopt.testing.small_workload import small_workload


def run_pass(made: Pass, program: Program, watchers: tuple[Watcher, ...] | None = None, behind: str = "") -> Outcome:
    """Run a pass, and before it those of ``behind``, with synthetic data, this machine as the target, and a backend."""
    backend: Backend | None = registry.get("backend", "eager")() if "eager" in registry.names("backend") else None
    workload = small_workload(program)
    pipeline = Pipeline.of(*Pipeline.parse(behind).passes, made)
    with briefly():  # a pass that measures must run; its figures do not matter
        around = (Verify(),) if watchers is None else watchers  # the synthetic data say nothing about the pass
        return pipeline.run(program, watchers=around, workload=workload, target=host(), backend=backend)


def check_interface(before: Program, after: Program) -> None:
    """Check that the dynamic dims of inputs and outputs did not change."""
    require(
        sorted(before.dims().values()) == sorted(after.dims().values()) and _dynamic(before) == _dynamic(after),
        f"dynamic dims were {before.signature()}, are {after.signature()}; write no example size into the graph",
    )


def _dynamic(program: Program) -> list[list[bool]]:
    values = [n.meta["val"] for n in program.inputs()] + [getattr(o, "meta", {}).get("val") for o in program.outputs()]
    return [[isinstance(s, torch.SymInt) for s in v.shape] for v in values if isinstance(v, torch.Tensor)]
