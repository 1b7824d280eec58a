"""Estimate the statistics of batch norms again."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge
from torch import fx

from fxopt import Context, Program, graph_pass
from fxopt.ir.op_table import STATISTICS, arguments
from fxopt.ir.placement import placed
from fxopt.passes.train.population import population


@graph_pass(kind="approx")
def reestimate_batch_norm(
    program: Program,
    context: Context,
    *,
    images: Annotated[int, Ge(1), Doc("Training examples over which statistics are computed.")] = 256,
) -> None:
    """Re-estimate the running mean and variance of batch norms, after a lossy step.

    A lossy step shifts the inputs of later layers, while each batch norm still normalises by what training saw. Its
    statistics are computed again over ``images`` training examples (Sun et al. 2019, "Hybrid 8-bit floating point training
    and inference", section 3.1; Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3). They are those of the
    population: all examples and positions count alike, and the variance is the unbiased one (Ioffe & Szegedy 2015, algorithm
    2), so the size of batches does not matter. Norms go one after another: each is measured with the norms before it already
    re-estimated and in evaluation, as it will be used. One sweep in training mode would normalise the layers before
    it by the statistics of single batches instead.

    The images run through the graph once for every norm on the longest path, up to that norm; memory does not grow with
    their number. No weight is trained. Run it before fold_batch_norm and quantize: a norm that is folded has no
    statistics left. Norms that share their statistics, or normalise by those of each batch, stay. Raises DataError without
    usable data, or where a norm's input is not finite.

    before:
        %x : f32[2,3,8,8]
        %mean = param "bn.running_mean" : f32[3] = [9.0, 9.0, 9.0]
        %var = param "bn.running_var" : f32[3] = [9.0, 9.0, 9.0]
        %y = aten.batch_norm(%x, None, None, %mean, %var, False, 0.1, 1e-05, False)
        return %y
    after:
        %x : f32[2,3,8,8]
        %mean = param "bn.running_mean" : f32[3]
        %var = param "bn.running_var" : f32[3]
        %y = aten.batch_norm(%x, None, None, %mean, %var, False, 0.1, 1e-05, False)
        return %y
    """
    norms = list(program.find("aten.batch_norm"))
    if not norms:
        why = (
            "there is no batch norm; fold_batch_norm and quantize leave none, so run reestimate_batch_norm before them"
        )
        program.skip(program.graph.output_node(), why)
        return
    uses = Counter(str(arguments(n)[key].target) for n in norms for key in STATISTICS if arguments(n)[key] is not None)
    open_ = []
    for norm in norms:
        reason = _declined(program, norm, uses)
        if reason:
            program.skip(norm, reason)
        else:
            open_.append(norm)
    for level in _levels(program, open_):
        changed = {}
        with placed(program, context.device):
            found = population(program, context.workload, images, level, "reestimate_batch_norm")
        for norm, moments in found.items():
            for key, value in zip(STATISTICS, moments, strict=True):
                node = arguments(norm)[key]
                old = program.tensor(node)
                assert old is not None
                changed[str(node.target)] = value.to(old.dtype)
        program.set_tensors(changed)


def _declined(program: Program, norm: fx.Node, uses: Counter[str]) -> str | None:
    call = arguments(norm)
    if call["training"]:
        return "training=True: it normalises with the statistics of each batch"
    if any(call[key] is None or program.tensor(call[key]) is None for key in STATISTICS):
        return "it has no statistics that are stored"
    if any(uses[str(call[key].target)] > 1 for key in STATISTICS):
        return "another batch norm reads the same statistics, and their inputs differ"
    return None


def _levels(program: Program, norms: list[fx.Node]) -> list[list[fx.Node]]:
    """The norms by how many others precede each on the longest path, so that none of a level reads another."""
    wanted, depth = set(norms), dict[fx.Node, int]()
    levels: dict[int, list[fx.Node]] = {}
    for node in program.graph.nodes:
        before = max((depth[source] for source in node.all_input_nodes), default=0)
        depth[node] = before + (node in wanted)
        if node in wanted:
            levels.setdefault(before, []).append(node)
    return [levels[key] for key in sorted(levels)]
