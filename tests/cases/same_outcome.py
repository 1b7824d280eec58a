"""Outcomes of pipelines compared bit for bit."""

import dataclasses

import torch
from torch.utils import _pytree as pytree


def facts(outcome):
    """Everything about an outcome but the seconds that it took and where it came from."""
    program = outcome.program
    steps = [vars(step) | {"seconds": 0, "cached": False} for step in outcome.steps]
    tensors = [
        (name, str(t.dtype), tuple(t.shape), t.stride(), isinstance(t, torch.nn.Parameter), t.requires_grad, _bits(t))
        for name, t in program.tensors().items()
    ]
    ties = [[a is b for b in program.tensors().values()] for a in program.tensors().values()]
    metas = [str(node.meta.get("val")) for node in program.graph.nodes]
    leaves, spec = pytree.tree_flatten((program.args, program.kwargs))
    kept = {name: {dim: k.tolist() for dim, k in dims.items()} for name, dims in program.kept_indices.items()}
    return {
        "text": program.text(source=True), "metas": metas, "tensors": tensors, "ties": ties, "ranges": program.ranges,
        "history": program.history, "notes": program.notes, "kept": kept, "steps": steps,
        "before": dataclasses.asdict(outcome.before), "spec": str(spec), "leaves": [_bits(v) for v in leaves],
        "in": str(program.in_spec), "out": str(program.out_spec),
    }  # fmt: skip


def _bits(value):
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
