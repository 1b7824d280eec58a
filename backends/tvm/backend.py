"""The TVM backend and its options."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_doc import Doc
from annotated_types import Ge

from fxopt.backend import Backend, Runner
from fxopt.backend.kernel_time import NODES, KernelTime
from fxopt.backends.tvm import runtime
from fxopt.errors import BackendError
from fxopt.target.detect import usable_cores

if TYPE_CHECKING:
    from torch import fx

    from fxopt.backend.manifest import Manifest
    from fxopt.backend.quant_policy import Policy
    from fxopt.backend.standalone import Standalone
    from fxopt.backends.tvm.machine.processor import Processor
    from fxopt.backends.tvm.tuning.database import Database
    from fxopt.ir.program import Program
    from fxopt.target import Target

_CHAIN = ("aten.add.Tensor", "aten.cat", "aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool2d")


@dataclass(frozen=True)
class Tvm(Backend):
    """Compile the whole model to machine code for the target, with register-tiled kernels.

    TVM generates the code. The artifact is a library and its parameters, with weights packed as the kernels read them; it
    serves every size of the dynamic dims. 3x3 convolutions are computed by Winograd's algorithm where that is likely
    to be faster, with 2.25 or 4 times fewer multiplications; their weights take 1.8 or 4 times the memory, which
    ``winograd=False`` saves. No more threads are started than the machine has processors; they share the iterations of
    each loop by work stealing.

    Convolutions over a line or a volume, and transposed ones, are computed as convolutions over images.

    A quantized program is computed in integers: values between layers are bytes, products of bytes are accumulated in 32 bits
    by the target's instruction for it (AMX, VNNI, sdot), and each kernel requantizes, or dequantizes where nothing reads
    quantized values. The report says how many convolutions and products are in integers, and of each in float why.

    Tiles are those that measured best before, for the same processor and threads, or else chosen by rule. ``tune`` measures
    them, at most ``trials``: each layer without its epilogue, on one image or on as many rows as one example has. With a
    batch, or another dynamic dim, layers take the tiles of one example. It goes on from all earlier trials of any model,
    which are in ``database``. With the same ``seed`` and trials, the next tile is the same.
    """

    name: ClassVar[str] = "tvm"
    estimates_cycles: ClassVar[bool] = True
    threads: Annotated[int, Ge(1), Doc("Threads of a call; None for all cores that the process may use.")] | None = None
    database: (
        Annotated[
            str, Doc("File of the trials of tuning; None for fxopt/tvm-tiles.jsonl in the user's cache, '' for none.")
        ]
        | None
    ) = None
    trials: (
        Annotated[int, Ge(0), Doc("Tiles that tuning measures at most; None for as many as the time allows.")] | None
    ) = None
    seed: Annotated[int, Doc("Seed of the order in which tuning tries tiles.")] = 0
    winograd: Annotated[bool, Doc("Compute 3x3 convolutions by Winograd's algorithm where that is likely faster.")] = (
        True
    )

    full_range: Annotated[
        bool, Doc("Let int8 weights use all 8 bits on x86 before VNNI too, for kernels half as slow again.")
    ] = False

    def refuses(self, node: fx.Node) -> str | None:
        """Why TVM's importer cannot convert a node; None if it can, directly or through torch's core ops."""
        from fxopt.backends.tvm.frontend.supported_ops import refuses

        return refuses(node)

    def legalize(self) -> str:
        """Rewrite writes, norms, averages and clamps into ops that fuse with convolutions, and these into two dims.

        Recurrent layers stay, as kernels that loop over the steps; single steps are products and gates.
        """
        return (
            "functionalize_writes, canonicalize_ops, unroll_recurrent(sequences=False), split_rms_norm, fold_batch_norm, "
            "pool_to_mean, canonicalize_clamp, conv_to_2d, conv_transpose_to_conv"
        )

    def quant_policy(self, target: Target) -> Policy:
        """Inputs and weights of layers, and the ops between them: sums, pools and concatenations.

        A kernel writes float as well as bytes, so a convolution's output is quantized only where all its readers take bytes.
        On x86 before VNNI pairs of weights are bounded for the kernels that are 1.5 times as fast then. That is no matter of
        exactness: other weights take kernels that are exact for them. On all other processors weights use all 8 bits.
        """
        from fxopt.backend.quant_policy import Policy

        bounded = target.int8_saturates and not self.full_range
        return Policy("between_integers", chain=_CHAIN, products=True, pairs_in_16_bits=bounded)

    def suits(self, target: Target) -> dict[str, str]:
        """Vectors, the int8 instruction with the signedness of activations that it needs, and threads."""
        from fxopt.backends.tvm.machine.dot_instructions import REPORTED_NAMES, instruction_of
        from fxopt.backends.tvm.machine.processor import processor_of

        processor = processor_of(target)
        instruction, features = instruction_of(processor), " ".join(sorted(target.features)) or "no features"
        sign = "signed, as its operands are" if instruction.signed else "unsigned"
        return {
            "vectors": f"{processor.lanes} floats in each of {processor.registers}: {features}",
            "layout": f"channels in blocks of {processor.lanes}",
            "int8": f"{REPORTED_NAMES[instruction.kind]} by {processor.mcpu}; activations are {sign}",
            "threads": f"{self._threads(processor)} of {target.cores} cores",
        }

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write ``model.so`` and ``model.params``; return how many kernels there are, and their tiles. Raises BackendError."""
        import torch

        from fxopt.backends.tvm.compile import compile_module
        from fxopt.backends.tvm.frontend.from_program import import_program
        from fxopt.backends.tvm.machine.processor import processor_of
        from fxopt.backends.tvm.tiling.task import Choices
        from fxopt.backends.tvm.tuning.report import tuning_report

        processor = processor_of(target)
        shapes = [tuple(leaf.shape) for leaf in program.example_leaves() if isinstance(leaf, torch.Tensor)]
        found = self._database(processor, target)
        choices = Choices(processor, found.tiles() if found else {}, winograd=self.winograd)
        made = compile_module(import_program(program), shapes, processor, choices, out)
        return made | tuning_report(choices, found)

    def tune(self, program: Program, target: Target, seconds: float) -> Tvm:
        """Try tiles for about ``seconds`` and write the trials into the database, which the build then reads.

        Kernels are timed on the device at the target's address, or on all behind a tracker at once, or here.

        Raises BackendError where the target is another machine without an address, or there is no database; DeviceError.
        """
        from fxopt.backends.remote.address import Address
        from fxopt.backends.tvm.compile import choose_tiles
        from fxopt.backends.tvm.frontend.from_program import import_program
        from fxopt.backends.tvm.machine.processor import processor_of
        from fxopt.backends.tvm.tiling.task import Choices
        from fxopt.backends.tvm.tuning.search import search
        from fxopt.runtime.device import device_of
        from fxopt.target.detect import not_here

        if target.address is None and (reason := not_here(target)):
            raise BackendError(
                f"the backend tvm tunes by measurement, and the target {target.name!r} is another machine: {reason}\n"
                "  give the target the address of a device; or build without tuning, with tiles by rule"
            )
        processor = processor_of(target)
        found = self._database(processor, target)
        if found is None:
            raise BackendError("tuning needs a database to write its trials into: tvm(database='tiles.jsonl')")
        begun = time.monotonic()
        choices = Choices(processor, found.tiles(), winograd=self.winograd)
        choose_tiles(import_program(program), choices)
        left = seconds - (time.monotonic() - begun)
        if (device := device_of(target)) is not None:
            device.rest()
        address = Address.parse(device.address) if device else None
        search(choices, found, self._threads(processor), left, self.trials, self.seed, address)
        return self

    def _threads(self, processor: Processor) -> int:
        return min(self.threads or processor.cores, processor.cores)

    def _database(self, processor: Processor, target: Target) -> Database | None:
        from fxopt.backends.tvm.tuning.database import Database, default_path
        from fxopt.runtime.device import device_of

        if self.database == "":
            return None
        device = device_of(target)
        path = Path(self.database) if self.database else default_path()
        return Database(path, processor, self._threads(processor), emulated=bool(device and device.facts()["emulated"]))

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Load the library. Raises BackendError where TVM refuses it."""
        needs_tiles = manifest.facts.get("integer_instruction") == "amx-int8"
        return runtime.make_runner(folder, self.threads, needs_tiles=needs_tiles)

    def profile(self, folder: Path, manifest: Manifest, inputs: list[Any], calls: int) -> list[KernelTime]:
        """By TVM's virtual machine, which reports before and after each kernel that it calls."""
        from fxopt.backends.tvm.profile import profile

        needs_tiles = manifest.facts.get("integer_instruction") == "amx-int8"
        return profile(folder, self.threads, inputs, calls, manifest.facts.get(NODES, []), needs_tiles=needs_tiles)

    def standalone(self, folder: Path, manifest: Manifest) -> Standalone:
        """The program that runs the library in TVM's runtime, set up as by :meth:`load`."""
        from fxopt.backends.tvm.standalone import standalone

        return standalone(folder, manifest.facts, self.threads)

    def missing(self) -> str | None:
        """The required package that is not installed, or whose version crashes."""
        return runtime.missing()

    def cannot_build(self, target: Target) -> str | None:
        """The missing package, that there are no schedules for the processor, or no compiler to link for it."""
        from fxopt.backends.tvm.machine.processor import processor_of
        from fxopt.target.cross_compiler import cross_compiler, missing_compiler

        if reason := self.missing():
            return reason
        try:
            triple = processor_of(target).triple
        except BackendError as error:
            return str(error)
        return missing_compiler(triple) if cross_compiler(triple) else None  # for this machine TVM finds one

    def elsewhere(self, manifest: Manifest) -> str | None:
        """That it is machine code for another processor, or uses instructions that this one lacks."""
        from fxopt.target.detect import host

        target, here = manifest.target, host()
        if target.architecture != here.architecture:
            return f"machine code of {target.architecture}, and this machine is {here.architecture}"
        lacking = sorted(target.features - here.features)
        return f"machine code with {', '.join(lacking)}, which this machine lacks" if lacking else None

    def alternatives(self, target: Target) -> tuple[Tvm, ...]:
        """Bounded weights, and full ones in slower kernels, on x86 before VNNI."""
        return (self, replace(self, full_range=True)) if self.quant_policy(target).pairs_in_16_bits else (self,)

    def variants(self) -> tuple[Tvm, ...]:
        """All cores or one."""
        threads = (None, 1) if self.threads is None and usable_cores() > 1 else (self.threads,)
        return tuple(replace(self, threads=t) for t in threads)
