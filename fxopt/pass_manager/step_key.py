"""Everything a step's result depends on, as one digest: its pass, its code, the watchers, the machine and the versions."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.step import Watcher
from fxopt.support.code_stamp import code_stamp, installed
from fxopt.target.detect import host
from fxopt.workload.value_key import Unkeyed, value_key

_RUN_BY = "fxopt.pass_manager.pipeline"


def step_key(state: str, pass_: Pass, watchers: Sequence[Watcher]) -> str | None:
    """sha256 for a pass over the program of the digest ``state``; None where some part has no digest.

    A watcher without ``cache_key(pass_)``, or whose key is None, needs to see every step.
    """
    keys = []
    for watcher in watchers:
        key_of = getattr(watcher, "cache_key", None)
        key = key_of(pass_) if key_of is not None else None
        if key is None:
            return None
        keys.append(key)
    code, by = _code_key(type(pass_)), code_stamp(_RUN_BY)
    if code is None or by is None:
        return None
    said = [state, repr(pass_), pass_.kind, pass_.tolerance.hex(), code, by, keys, machine()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _code_key(cls: type[Pass]) -> str | None:
    try:
        return value_key((cls, cls.run, getattr(cls, "function", None)))
    except Unkeyed:
        return None


def machine() -> str:
    """What the results of a run depend on besides code: processor, threads, versions, torch's switches."""
    return json.dumps([
        installed(), torch.__version__, np.__version__, _processor(), torch.get_num_threads(),
        str(torch.get_default_dtype()), torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled,
        torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(), os.environ.get("WORLD_SIZE", "1"),
    ])  # fmt: skip


@functools.cache
def _processor() -> list[Any]:
    facts = host().to_dict()
    names = []
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = sorted({line for line in lines if line.startswith(("model name", "CPU part", "CPU implementer"))})
    except OSError:
        names = [platform.processor()]
    return [facts["triple"], facts["features"], torch.backends.cpu.get_cpu_capability(), names]
