"""The values of some nodes of a program for given inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.ir.transfer import put
from fxopt.numerics.execute import started


def values_until(program: Program, leaves: list[Any], wanted: set[fx.Node]) -> dict[fx.Node, Any]:
    """The values of some nodes for flat inputs, on its device; the program is run as far as the last of them."""
    run, found = started(fx.Interpreter(program.module), put(leaves, program.device)), dict[fx.Node, Any]()
    for node in program.graph.nodes:
        run.env[node] = run.run_node(node)
        if node in wanted:
            value = run.env[node]
            found[node] = value.clone() if isinstance(value, torch.Tensor) else value  # a later op may write into it
            if len(found) == len(wanted):
                break
        for gone in run.user_to_last_uses.get(node, ()):
            del run.env[gone]
    return found
