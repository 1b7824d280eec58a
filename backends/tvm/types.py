"""TVM's classes by name, for annotations: the one file that knows where TVM has them. Importing it loads nothing of TVM.

Modules import what they need from here under ``TYPE_CHECKING``, as TVM itself is imported only in functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.ir import Call, Expr, TensorLoad, TensorRegion, Var
    from tvm.ir.transform import Pass as ModulePass
    from tvm.relax import Binding, BlockBuilder, TupleGetItem, VirtualMachine
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter
    from tvm.rpc import RPCSession
    from tvm.runtime import Device, Executable, Module, Tensor
    from tvm.s_tir import SBlock, SBlockRealize, Schedule
    from tvm.s_tir.schedule import LoopRV, SBlockRV
    from tvm.te import Tensor as TensorExpr
    from tvm.tirx import AllocBuffer, Buffer, BufferStore, Evaluate, For, ForKind, PrimFunc, SeqStmt, Stmt

Array: TypeAlias = npt.NDArray[Any]
"""An array of any dtype."""
Facts: TypeAlias = dict[str, Any]
"""JSON values for the report, as :meth:`fxopt.backend.Backend.build` returns them."""
Scalar: TypeAlias = "Expr"
"""A scalar expression: an index, a size or an element. TVM 0.27 has one class for these and for Relax's."""
Size: TypeAlias = "Expr | int"
"""A size, which is a symbolic expression where it is dynamic."""
Shape: TypeAlias = "list[Size] | tuple[Size, ...]"
Element: TypeAlias = "Callable[..., Scalar]"
"""The element at a position, as ``te.compute`` takes it."""
TensorFunction: TypeAlias = "Callable[..., TensorExpr]"
"""A function from tensor expressions to one, as ``BlockBuilder.call_te`` takes it."""

__all__ = [
    "AllocBuffer", "Array", "Binding", "BlockBuilder", "Buffer", "BufferStore", "Call", "Device", "Element",
    "Evaluate", "Executable", "ExportedProgramImporter", "Expr", "Facts", "For", "ForKind", "IRModule",
    "LoopRV", "Module", "ModulePass", "PrimFunc", "RPCSession", "SBlock", "SBlockRV", "SBlockRealize", "Scalar",
    "Schedule", "SeqStmt", "Shape", "Size", "Stmt", "Tensor", "TensorExpr", "TensorFunction", "TensorLoad",
    "TensorRegion", "TupleGetItem", "Var", "VirtualMachine",
]  # fmt: skip
