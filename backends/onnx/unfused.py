"""What ONNX Runtime has a kernel for that is not for this call of it."""

from __future__ import annotations

from collections.abc import Iterator

from fxopt.backends.onnx.attention_kernels import ATTENTION, why_written_out
from fxopt.backends.onnx.norms import norm_written_out
from fxopt.backends.onnx.rotary_forms import match_rotary, rotary_written_out
from fxopt.ir.printer import source_line
from fxopt.ir.program import Program


def unfused(program: Program) -> list[str]:
    """A note for each attention, RMS norm and rotary embedding of a program that stays written out: why, and the user's line."""
    return list(_notes(program))


def _notes(program: Program) -> Iterator[str]:
    for node in program.find(ATTENTION):
        if reason := why_written_out(node):
            yield f"attention is written out: {reason}: {source_line(node)}"
    for node in program.find("aten.rsqrt"):
        if reason := norm_written_out(node):
            yield f"an RMS norm is written out: {reason}: {source_line(node)}"
    for node in program.find("aten.add.Tensor"):
        rotary = match_rotary(node)
        if rotary is not None and (reason := rotary_written_out(program, rotary)):
            yield f"a rotary embedding is written out: {reason}: {source_line(node)}"
