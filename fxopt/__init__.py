"""fxopt: capture a PyTorch model to a graph, rewrite it by proved passes, lower it to what runs fast on a device.

Everything below loads when it is first used, so that ``import fxopt`` and loading an artifact do not need torch.

::

    a model becomes a Program     capturing (exporting, guards, dynamic_shapes, agreement, autocast_regions, capture_*), partial
    what a Program is             program (fitting), ops (the table), text, shapes, aliasing, cost, canonical
    Programs as files, as text    storage (archive), parsing (parsing_words, parsing_types)
    what a pass is                pass_base, options, rewrite, spec (the text form of options)
    running passes                pipeline (rules, dead_code), watchers
    proving them                  verify (running, probes, compare, claims), precision (reference)
    backend, target, workload     backend (qdq), target, workload (recorded), registry
    training on                   trainable (a Program as a plain module)
    the main job                  recipe, building, lowering, judging (batching), measure, artifact (tree), staging, facts,
                                  report, benching, trying_out (fresh_process)
    whether it is right           fidelity (exposing, integer_check), int8_pairs
    the command line              cli, explain, scaffold, errors (all of them)
    for authors of plugins        testing
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxopt.artifact import Artifact as Artifact
    from fxopt.artifact import load as load
    from fxopt.backend import Backend as Backend
    from fxopt.building import build as build
    from fxopt.capturing import CaptureWarning as CaptureWarning
    from fxopt.capturing import capture as capture
    from fxopt.partial import capture_parts as capture_parts
    from fxopt.pass_base import Pass as Pass
    from fxopt.pass_base import graph_pass as graph_pass
    from fxopt.pipeline import Pipeline as Pipeline
    from fxopt.program import Program as Program
    from fxopt.recipe import Recipe as Recipe
    from fxopt.rewrite import rewrite_pass as rewrite_pass
    from fxopt.storage import load_program as load_program
    from fxopt.storage import save_program as save_program
    from fxopt.target import Target as Target
    from fxopt.trainable import as_module as as_module
    from fxopt.workload import Workload as Workload

__version__ = "0.1.0"

_HOME = {
    "Artifact": "artifact", "load": "artifact", "Backend": "backend", "build": "building",
    "CaptureWarning": "capturing", "capture": "capturing", "capture_parts": "partial", "Pass": "pass_base",
    "graph_pass": "pass_base", "Pipeline": "pipeline", "Program": "program", "Recipe": "recipe",
    "rewrite_pass": "rewrite", "load_program": "storage", "save_program": "storage", "Target": "target",
    "as_module": "trainable", "Workload": "workload",
}  # fmt: skip

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fxopt' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fxopt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
