"""Wrong coupling rules are caught by shrink's verification, on models whose sizes all differ."""

import dataclasses

import pytest
import torch
from cases.coupling_models import (
    Aliased,
    Attention,
    Dense,
    Depthwise,
    Factored,
    Fused,
    GroupNorm,
    Llama,
    PaddedShortcut,
    Permuted,
    RmsByHand,
    SuperResolution,
    UNet,
    images,
    made,
    tokens,
)
from cases.shrinking import captured, zeroed
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline
from fxopt.errors import FxoptError
from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling import rules_conv
from fxopt.passes.prune.coupling.atoms import Atoms
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.coupling.table import all_rules
from fxopt.passes.prune.shrink import shrink

pytestmark = pytest.mark.usefixtures("one_thread")

SEQUENCE, VECTORS, IMAGES, TOKENS = images(5, 10), images(10), images(), tokens()


class Between(nn.Module):
    """Two linear layers with something in between them."""

    def __init__(self, between, n=11, left=11):
        super().__init__()
        self.between, self.up, self.down = between, nn.Linear(10, n), nn.Linear(left, 5)
        self.norm, self.scale = nn.LayerNorm(n), nn.Parameter(torch.randn(left))

    def forward(self, x):
        y = self.up(x)
        match self.between:
            case "softmax":
                y = y.softmax(-1)
            case "layer_norm":
                y = self.norm(y)
            case "cumsum":
                y = y.cumsum(-1)
            case "amax":
                y = y - y.amax(-1, keepdim=True)
            case "flip":
                y = y.flip(-1)
            case "slice":
                y = y[:, 2:8]
            case "split":
                a, b = y.split([3, 8], -1)
                y = torch.cat([torch.tanh(a), b.exp()], -1)
            case "unbind":
                a, b = y.unflatten(-1, (2, 5)).unbind(1)
                y = torch.cat([a, b * b], -1)
            case "normalize":
                y = F.normalize(y, dim=-1)
        return self.down(y * self.scale)


class Change:
    """A rule with another coupling or another rewrite."""

    def __init__(self, *ops, couple=None, rewrite=None, none=False):
        self.ops, self.couple, self.rewrite, self.none = ops, couple, rewrite, none

    def __call__(self, patch):
        for op in self.ops:
            rule = all_rules()[op]
            changes = {"couple": self.couple(rule.couple)} if self.couple else {"rewrite": self.rewrite}
            patch.setitem(all_rules(), op, dataclasses.replace(rule, **changes))


def as_operand(old):
    """The result has the axes of the first operand."""
    return lambda sweep, node: sweep.of(node.args[0])


def without_pins(old):
    def couple(sweep, node):
        pinned, Sweep.pin = Sweep.pin, lambda *_: None
        try:
            return old(sweep, node)
        finally:
            Sweep.pin = pinned

    return couple


def without_unite(old):
    def couple(sweep, node):
        united, Atoms.unite = Atoms.unite, lambda *_: None
        try:
            return old(sweep, node)
        finally:
            Atoms.unite = united

    return couple


def reversed_parts(old):
    """As if what is joined or split came in the other order."""

    def couple(sweep, node):
        first = node.args[0]
        if isinstance(first, (list, tuple)):
            node.args = (list(first)[::-1], *node.args[1:])
            made = old(sweep, node)
            node.args = (list(first), *node.args[1:])
            return made
        return old(sweep, node)[::-1]

    return couple


def copies_outside(old):
    """Each index several times in a row, taken for the whole dim again and again."""

    def couple(sweep, node):
        call, axes = arguments(node), sweep.of(node.args[0])
        sweep.notes[node] = (sweep.atoms.fresh(call["repeats"]),)
        axes[call["dim"]] = ax.merged(sweep.notes[node], axes[call["dim"]])
        return axes

    return couple


def copies_inside(old):
    def couple(sweep, node):
        axes = old(sweep, node)
        return (
            [ax.merged(a, c) for a, c in zip(sweep.of(node.args[0]), sweep.notes[node], strict=True)] if axes else axes
        )

    return couple


def start_plus_one(old):
    def couple(sweep, node):
        axes = old(sweep, node)
        if node in sweep.notes:
            before, picked = sweep.notes[node]
            rows = ax.rows_of(sweep.of(node.args[0])[arguments(node)["dim"]])
            axes[arguments(node)["dim"]] = ax.axis_of(rows[ax.length(before) - 1 :][: ax.length(picked)])
        return axes

    return couple


def unsorted_index(old):
    def couple(sweep, node):
        axes = old(sweep, node)
        return [sweep.of(node.args[0])[i] if node in sweep.notes else a for i, a in enumerate(axes)]

    return couple


def swapped_pad(cut, node):
    all_rules()["aten.constant_pad_nd"].rewrite(cut, node)
    amounts = list(arguments(node)["pad"])
    set_argument(node, "pad", [n for i in range(0, len(amounts), 2) for n in amounts[i : i + 2][::-1]])


def merge_swapped(patch):
    merged = ax.merged
    patch.setattr(ax, "merged", lambda *axes: merged(*axes[::-1]))


def interleaved_groups(patch):
    def grouped(sweep, node, axis, groups):
        if groups == 1:
            return (1,), axis
        parts = ax.reshape(sweep.atoms, [axis], [ax.length(axis) // groups, groups], 1)
        sweep.notes[node] = parts[1]
        return parts[1], parts[0]

    patch.setattr(rules_conv, "split_groups", grouped)


def swapped_split(patch):
    split = Atoms.split

    def wrong(self, rows, outer, inner, reason):
        return split(self, rows, inner, outer, reason)[::-1]

    patch.setattr(Atoms, "split", wrong)


MUTATIONS = {
    "merged in the wrong order": (merge_swapped, (Factored, ((4, 6), (12, 2)), VECTORS)),
    "split in the wrong order": (swapped_split, (Attention, ("flag",), SEQUENCE)),
    "interleaved groups": (interleaved_groups, (Depthwise, (), IMAGES)),
    "groups not rewritten": (Change("aten.conv2d"), (Depthwise, (), IMAGES)),
    "grouped convolution untied": (Change("aten.conv2d", couple=without_unite), (Depthwise, (), IMAGES)),
    "transposed convolution untied": (Change("aten.conv_transpose2d", couple=without_unite), (UNet, (), IMAGES)),
    "tile for repeat_interleave": (
        Change("aten.repeat_interleave.self_int", couple=copies_outside),
        (Attention, ("repeat_interleave",), SEQUENCE),
    ),
    "repeat_interleave for tile": (Change("aten.repeat", couple=copies_inside), (Attention, ("tile",), SEQUENCE)),
    "expand keeps its size": (Change("aten.expand"), (Attention, ("expand",), SEQUENCE)),
    "sizes of views are kept": (Change("aten.view"), (Fused, ("split",), SEQUENCE)),
    "scale of attention not kept": (Change("aten.scaled_dot_product_attention"), (Attention, ("flag",), SEQUENCE)),
    "softmax not pinned": (Change("aten.softmax", couple=as_operand), (Between, ("softmax",), VECTORS)),
    "layer norm not pinned": (Change("aten.layer_norm", couple=without_pins), (Between, ("layer_norm",), VECTORS)),
    "cumsum not pinned": (Change("aten.cumsum", couple=as_operand), (Between, ("cumsum",), VECTORS)),
    "amax not pinned": (Change("family:reduce", couple=without_pins), (Between, ("amax",), VECTORS)),
    "mean not scaled": (Change("aten.mean"), (Llama, (RmsByHand,), TOKENS)),
    "rms norm not scaled": (Change("aten.rms_norm"), (Llama, (nn.RMSNorm,), TOKENS)),
    "norm without its contraction": (
        Change("aten.linalg_vector_norm", couple=lambda old: lambda sweep, node: [*sweep.of(node.args[0])[:-1], (1,)]),
        (Between, ("normalize",), VECTORS),
    ),
    "inside of group norm free": (Change("aten.group_norm", couple=without_pins), (GroupNorm, (3,), IMAGES)),
    "groups of group norm kept": (Change("aten.group_norm"), (GroupNorm, (3,), IMAGES)),
    "batch norm without its parameters": (Change("aten.batch_norm", couple=as_operand), (Dense, (), IMAGES)),
    "cat in the wrong order": (Change("aten.cat", couple=reversed_parts), (Dense, (), IMAGES)),
    "parts of split swapped": (Change("aten.split_with_sizes", couple=reversed_parts), (Between, ("split",), VECTORS)),
    "slice off by one": (Change("aten.slice", couple=start_plus_one), (Between, ("slice", 11, 6), VECTORS)),
    "bounds of slice kept": (Change("aten.slice"), (Between, ("slice", 11, 6), VECTORS)),
    "flip without effect": (Change("aten.flip", couple=as_operand), (Between, ("flip",), VECTORS)),
    "permuting index without effect": (Change("aten.index", couple=unsorted_index), (Permuted, (), VECTORS)),
    "index of select kept": (Change("aten.select"), (Aliased, (), VECTORS)),
    "unbound indices free": (Change("aten.unbind", couple=without_pins), (Between, ("unbind", 10, 10), VECTORS)),
    "pad on the wrong side": (Change("aten.pad", rewrite=swapped_pad), (PaddedShortcut, (), IMAGES)),
    "channels of pixel shuffle inside": (swapped_split, (SuperResolution, (), IMAGES)),
    "additions not united": (Change("family:binary", couple=without_unite), (PaddedShortcut, (), IMAGES)),
}


def fails(model, seed):
    work = captured(*model).copy()
    try:
        zeroed(work, seed)
        Pipeline.of(shrink()).run(work)
    except (FxoptError, AssertionError):
        return True
    return False


@pytest.mark.parametrize("name", MUTATIONS)
def test_wrong_rule_is_caught(name, monkeypatch):
    mutate, model = MUTATIONS[name]
    assert not any(fails(model, seed) for seed in range(2)), "the right rule must pass"
    mutate(monkeypatch)
    assert any(fails(model, seed) for seed in range(6)), "the wrong rule was not noticed"


def test_models_are_made_with_numbers_that_differ():
    """Layers that start equal, such as scales of one, would hide what is mixed up."""
    assert made(Dense).norms[0].weight.unique().numel() > 1
