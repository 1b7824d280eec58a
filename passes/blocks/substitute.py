"""Exchange blocks for cheaper ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge, Gt
from torch import fx

from fxopt import Context, Program, graph_pass
from fxopt.errors import OptionError
from fxopt.ir.alias_analysis import make_functional
from fxopt.ir.op_table import find_quantized
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.block_entry import BlockForm, parse_form
from fxopt.passes.blocks.block_program import put
from fxopt.passes.blocks.boundary_errors import boundary_errors
from fxopt.passes.blocks.budget import BlockBudget, within_budget
from fxopt.passes.blocks.candidates import Candidate, library
from fxopt.passes.blocks.library import Library
from fxopt.passes.blocks.teacher import Teacher
from fxopt.passes.blocks.wanted_blocks import wanted_blocks
from fxopt.passes.train.finetune import finetune
from fxopt.support.options import Tune

_WHO = "substitute"
_RATE = 2e-3


@graph_pass(kind="approx", one_of=(("choice", "macs", "latency"),))
def substitute(
    program: Program,
    context: Context,
    *,
    choice: Annotated[
        tuple[str, ...],
        Doc("Forms by block, such as 'features.2.*=depthwise_pointwise(terms=2)'; instead of a budget."),
    ] = (),
    macs: Annotated[
        float,
        Gt(0),
        Tune(0.2, 0.9, log=True),
        Doc("Multiply-accumulates to be left, as a share up to 1 or as a number."),
    ]
    | None = None,
    latency: Annotated[
        str | None, Doc("Latency to be left on the target: '0.5x' for half of the whole program's, or '3ms'.")
    ] = None,
    entries: Annotated[tuple[str, ...], Doc("Entries of the library to choose from, all without.")] = (),
    epochs: Annotated[int, Ge(0), Doc("Epochs in which each entry is trained to give what its block gives.")] = 0,
    samples: Annotated[int, Ge(1), Doc("Training examples on which it is fitted and judged.")] = 256,
    keep: Annotated[tuple[str, ...], Doc("Blocks, weights or modules that stay, with wildcards.")] = (),
    only: Annotated[tuple[str, ...], Doc("Blocks, weights or modules that alone may change, with wildcards.")] = (),
    checkpoint: Annotated[str | None, Doc("Folder from which a training that was stopped goes on.")] = None,
) -> None:
    """Exchange blocks for cheaper ones, chosen by their cost and their effect on the outputs.

    Blocks are what `fxopt explain blocks` shows, and the library is what `fxopt blocks` lists: low-rank chains, separable and
    grouped convolutions, bottlenecks, smaller kernels, fewer channels or heads, the mean in place of attention, or nothing.
    Each entry starts from the block's weights in closed form. With ``epochs`` it is then trained to match the block's outputs
    for ``samples`` training examples, without labels; one whose loss is not finite is dropped. ``checkpoint`` names a folder
    from which an interrupted training goes on. ``entries`` narrows the library.

    How much goes is a budget: ``macs``, a share up to 1 or a number; or ``latency``, ``"0.5x"`` for half of the whole program's
    or ``"3ms"``, as the backend builds it and the target runs it. By default half of the MACs go, or as many
    as can. Within it the divergence of the outputs is least: Kullback-Leibler for scores, squared error over variance for
    others, measured with each form alone in its place. A mixed-integer linear program chooses; the best few choices are
    built and measured, the model is corrected by that, and solved again, until one keeps the budget, or eight times.
    Or ``choice`` says it: ``choice=("features.2.*=depthwise_pointwise(terms=2)", "layer4.1=off")``, names of blocks or modules by
    pattern; of blocks inside one another the outermost is taken.

    ``keep`` and ``only`` name blocks, weights or modules by pattern. What each block became and why, the error at its end and
    at the outputs, and what was predicted and measured of each choice that was built are in the report. In-place ops become
    functional. Graph and values change in one step, so nothing is proved: the interface of each block is checked.

    Raises OptionError, BudgetError for a budget that no choice reaches, DataError where data is needed and absent, PassError
    for a quantized program, and UsageError where latency is to be measured and cannot be.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[8,8]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,8]
        %v = param "fc.weight_0" : f32[2,8]
        %h = aten.linear(%x, %v)
        %u = param "fc.weight_1" : f32[8,2]
        %y = aten.linear(%h, %u)
        return %y
    """
    quantized = find_quantized(program.graph)
    if quantized is not None:
        raise program.fail(
            quantized, f"{_WHO}: the program is quantized; substitute blocks first, quantize after all other passes"
        )
    if sum(map(bool, (choice, macs, latency))) > 1:
        raise OptionError(f"{_WHO}: give one of choice=, macs= and latency=")
    budget = BlockBudget.read(macs, latency, _WHO)
    wanted = [_parsed(text) for text in choice]
    allowed = library(entries)
    whole = shared_copy(program)
    make_functional(whole)
    derive_shapes(whole)
    found = wanted_blocks(program, whole, keep, only, [pattern for pattern, _ in wanted], _WHO)
    if not found:
        return
    how = finetune(epochs=epochs, rate=_RATE, batch_size=32, checkpoint=checkpoint) if epochs else None
    workload = context.workload
    with_data = not choice or how is not None or (workload is not None and workload.data is not None)
    where = {"who": _WHO, "device": context.device}
    teacher = Teacher.of_data(whole, workload, samples, **where) if with_data else Teacher.of_example(whole, **where)
    own = Library(program, teacher, how, _WHO, has_data=with_data)
    if choice:
        chosen = own.explicit(found, wanted)
    else:
        chosen = within_budget(budget, context, own, found, allowed, _WHO)
    if chosen:
        _exchange(program, teacher, chosen)


def _parsed(text: str) -> tuple[str, BlockForm]:
    pattern, equals, form = text.partition("=")
    if not equals:
        raise OptionError(f"{_WHO}: choice takes 'PATTERN=ENTRY' such as 'layer4.1=off', got {text!r}")
    return pattern.strip(), parse_form(form, f"{_WHO}: choice")


def _exchange(program: Program, teacher: Teacher, chosen: Sequence[Candidate]) -> None:
    """Put the candidates in their places, and report the error at each boundary and at the outputs."""
    make_functional(program)
    ends = put(program, [(candidate.block, candidate.program) for candidate in chosen])
    outputs = [out for out in program.outputs() if isinstance(out, fx.Node)]
    before = [out for out in teacher.program.outputs() if isinstance(out, fx.Node)]
    names = {candidate.block.end: candidate.block.name for candidate in chosen}
    errors = boundary_errors(teacher, program, ends)
    for end, name in names.items():
        program.measured(f"{name}, its end", "SQNR", errors[end], "dB")
    at_outputs = boundary_errors(teacher, program, {b.name: o for b, o in zip(before, outputs, strict=True)})
    program.measured("the outputs", "SQNR", min(at_outputs.values(), default=float("inf")), "dB")
