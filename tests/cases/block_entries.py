"""Entries of the library of blocks, put in the place of whole networks."""

import torch
from cases.block_models import captured

from fxopt import registry
from fxopt.ir.shape_inference import derive_shapes
from fxopt.pass_manager.block_entry import Samples
from fxopt.pass_manager.step import tidy


def entry(name, **options):
    return registry.get("block", name)(**options)


def double(net, *shape):
    """The program of a module in float64, and an input."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return captured(net.double(), *shape, dtype=torch.float64), x


def built(form, program, samples=None):
    twin = program.copy()
    assert form.build(twin, samples) is None
    tidy(twin)
    derive_shapes(twin)
    return twin


def samples_of(program, x):
    return Samples(x, program(x))


def error(a, b):
    return float((a - b).norm() / a.norm())
