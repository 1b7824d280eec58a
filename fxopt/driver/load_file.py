"""Registration of the definitions in a user's file: ``--load file.py``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from fxopt import registry
from fxopt.backend import Backend
from fxopt.errors import UsageError
from fxopt.pass_manager.block_entry import BlockEntry
from fxopt.pass_manager.pass_base import Pass
from fxopt.support.import_user_code import import_file, says_it_returns
from fxopt.target import Target
from fxopt.workload import Workload


def load_file(path: str | Path) -> list[str]:
    """Execute a user's file and register the passes, backends, workloads, targets and blocks that it defines.

    Returns ``kind name`` lines. Raises UsageError for a file that is missing, fails, defines nothing, or takes a name.
    """
    try:
        module = import_file(Path(path))
    except (Exception, SystemExit) as error:
        raise UsageError(f"--load {path}: {type(error).__name__}: {error}") from error
    found = [(*kind_name, value) for value in vars(module).values() if (kind_name := _classify(value, module))]
    if not found:
        raise UsageError(f"--load {path}: it defines no pass, backend, workload, target or block")
    for kind, name, value in found:
        registry.register(kind, name, value, f"--load {path}")
    return [f"{kind} {name}" for kind, name, _ in found]


def _classify(value: Any, module: ModuleType) -> tuple[str, str] | None:
    """Kind and name of a value that a module itself defines; None for imported ones, and for anything else."""
    if isinstance(value, (Workload, Target)):
        return ("workload" if isinstance(value, Workload) else "target"), value.name
    if getattr(value, "__module__", None) != module.__name__:
        return None
    if isinstance(value, BlockEntry):
        return "block", value.name
    if isinstance(value, type):
        return next(
            ((k, value.name) for k, base in (("pass", Pass), ("backend", Backend)) if issubclass(value, base)), None
        )
    if says_it_returns(value, "Workload"):
        return "workload", value.__name__
    if says_it_returns(value, "Target"):
        return "target", value.__name__
    return None
