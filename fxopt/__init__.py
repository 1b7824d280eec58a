"""fxopt: capture a PyTorch model as a graph, rewrite it by proved passes, lower it to a fast artifact for a device.

The rooms, from the top; each may import those below it, and its docstring says what it offers::

    cli                     the command line
    testing                 the conformance kit for passes and backends
    automl                  recipes found by measurement, for a device within limits
    driver, bundle          a build, from recipe to report; an artifact as one file for a device without Python
    pass_manager, runtime   passes run and proved; artifacts loaded, run and timed, without torch
    workload                a model with its inputs, data, loss and metric
    frontend, backend       from a module to a program; the backend interface
    numerics, target        runs and error metrics; facts about devices
    ir, support             the program and its op table; options, text forms, users' code
    registry, errors        names to passes, backends, models, targets; every error that is raised on purpose

``passes``, ``backends`` and ``models`` hold what the registry reaches by name. Everything below loads when it is first
used, so that ``import fxopt`` and loading an artifact do not need torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxopt.automl.nas.nas import nas as nas
    from fxopt.automl.search import search as search
    from fxopt.backend import Backend as Backend
    from fxopt.backend import Manifest as Manifest
    from fxopt.backend import Policy as Policy
    from fxopt.backend import Runner as Runner
    from fxopt.driver.build import build as build
    from fxopt.driver.recipe import Recipe as Recipe
    from fxopt.driver.report import BuildReport as BuildReport
    from fxopt.driver.tracked import tracked as tracked
    from fxopt.errors import FxoptError as FxoptError
    from fxopt.frontend.capture import CaptureWarning as CaptureWarning
    from fxopt.frontend.capture import capture as capture
    from fxopt.frontend.partial import capture_parts as capture_parts
    from fxopt.frontend.pt2 import load_program as load_program
    from fxopt.frontend.pt2 import save_program as save_program
    from fxopt.frontend.split import Split as Split
    from fxopt.frontend.split import capture_split as capture_split
    from fxopt.frontend.until import Tail as Tail
    from fxopt.ir.printer import op_name as op_name
    from fxopt.ir.program import Program as Program
    from fxopt.ir.trainable_module import as_module as as_module
    from fxopt.pass_manager.block_entry import block_entry as block_entry
    from fxopt.pass_manager.context import Context as Context
    from fxopt.pass_manager.pass_base import Pass as Pass
    from fxopt.pass_manager.pass_base import PassType as PassType
    from fxopt.pass_manager.pass_base import graph_pass as graph_pass
    from fxopt.pass_manager.pattern import rewrite_pass as rewrite_pass
    from fxopt.pass_manager.pipeline import Pipeline as Pipeline
    from fxopt.runtime.artifact import Artifact as Artifact
    from fxopt.runtime.artifact import load as load
    from fxopt.runtime.encoder_decoder import EncoderDecoder as EncoderDecoder
    from fxopt.support.options import Tune as Tune
    from fxopt.support.options import With as With
    from fxopt.target import Target as Target
    from fxopt.workload import Data as Data
    from fxopt.workload import Workload as Workload
    from fxopt.workload import data as data

__version__ = "0.1.0"

_HOME = {
    "Artifact": "runtime.artifact", "load": "runtime.artifact", "Backend": "backend", "Runner": "backend",
    "Manifest": "backend", "Policy": "backend", "build": "driver.build", "CaptureWarning": "frontend.capture",
    "capture": "frontend.capture", "capture_parts": "frontend.partial", "Pass": "pass_manager.pass_base",
    "graph_pass": "pass_manager.pass_base", "Context": "pass_manager.context", "Pipeline": "pass_manager.pipeline",
    "Program": "ir.program", "Recipe": "driver.recipe", "rewrite_pass": "pass_manager.pattern",
    "load_program": "frontend.pt2", "save_program": "frontend.pt2", "Target": "target",
    "as_module": "ir.trainable_module", "Workload": "workload", "op_name": "ir.printer", "With": "support.options",
    "Tune": "support.options", "search": "automl.search", "block_entry": "pass_manager.block_entry", "nas": "automl.nas.nas",
    "FxoptError": "errors", "Data": "workload", "BuildReport": "driver.report", "PassType": "pass_manager.pass_base",
    "data": "workload", "tracked": "driver.tracked", "Split": "frontend.split", "capture_split": "frontend.split",
    "Tail": "frontend.until", "EncoderDecoder": "runtime.encoder_decoder",
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
