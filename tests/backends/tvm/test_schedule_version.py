"""Seconds that users measured are thrown away when the code of kernels changed, and only then.

Kernels of every kind, each in a tile and for a processor of its own choice, are lowered to what TVM hands to LLVM, which is
the same on every machine. Digests of that are held in ``golden/lowered_kernels.txt``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN

from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm.machine.dot_instructions import instruction_of
from fxopt.backends.tvm.machine.processor import Processor, processor_of
from fxopt.backends.tvm.ops import int8_kernel as kernels
from fxopt.backends.tvm.ops import winograd
from fxopt.backends.tvm.ops.conv2d import Convolution
from fxopt.backends.tvm.ops.int8_kernel import StandaloneKernel
from fxopt.backends.tvm.ops.matmul import Matmul
from fxopt.backends.tvm.schedule import register_tiles as tiles
from fxopt.backends.tvm.tiling.int8_geometry import Geometry, matmul_geometry
from fxopt.backends.tvm.tiling.task import Kernel, Tile
from fxopt.backends.tvm.tir import parallel_threshold as threads
from fxopt.backends.tvm.tir import pipeline as pipelines
from fxopt.backends.tvm.tir.pipeline import register_pipeline
from fxopt.backends.tvm.tuning import database as databases
from fxopt.backends.tvm.tuning.local_runner import scheduled
from fxopt.target import Target

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)


def _processor(triple: str, *features: str) -> Processor:
    return processor_of(Target("fixed", f"{triple}-linux-gnu", features=frozenset(features), cores=4))


AVX2 = _processor("x86_64", "avx2", "fma")
VNNI = _processor("x86_64", "avx512f", "avx512-vnni")
AMX = _processor("x86_64", "avx512f", "avx512-vnni", "amx-tile", "amx-int8")
SDOT = _processor("aarch64", "neon", "neon-dotprod")
A72 = _processor("aarch64", "neon")


def _conv(on: Processor, inputs: int, outputs: int, kernel: int, groups: int = 1, *, blocked: bool = True) -> Kernel:
    border = (kernel // 2,) * 4
    return Convolution(
        inputs, outputs, (kernel, kernel), (1, 1), border, (1, 1), groups, (28, 28), on.lanes, blocked_input=blocked
    )


def _codes(
    on: Processor, inputs: int, outputs: int, kernel: int, groups: int = 1, *, small: bool = False
) -> StandaloneKernel:
    """A convolution of codes; ``small``: with weights of which no pair overflows 16 bits."""
    instruction, border = instruction_of(on).for_weights(np.full((1, 2), 64 if small else 127)), (kernel // 2,) * 4
    return StandaloneKernel(
        Geometry(
            instruction.padded_channels(inputs), outputs, (kernel, kernel), (1, 1), border, (1, 1), groups, inputs // groups,
            28, 28, 28, instruction,
        )
    )  # fmt: skip


def _codes_product(on: Processor, rows: int, depth: int, columns: int, pairs: int = 0) -> StandaloneKernel:
    return StandaloneKernel(matmul_geometry(rows, depth, columns, rows, instruction_of(on), pairs))


KERNELS: dict[str, tuple[Kernel, Tile, Processor]] = {
    "conv": (_conv(VNNI, 64, 96, 3), Tile(7, 3, 4, 2), VNNI),
    "conv, few registers": (_conv(AVX2, 32, 40, 3), Tile(4, 2, 4), AVX2),
    "conv, image": (_conv(AVX2, 3, 64, 7, blocked=False), Tile(5, 2, 1), AVX2),
    "conv, groups": (_conv(SDOT, 32, 64, 3, 2), Tile(4, 4, 4), SDOT),
    "depthwise": (_conv(SDOT, 96, 96, 5, 96), Tile(7, 1, 1), SDOT),
    "winograd 2": (_conv(AVX2, 64, 64, 3), Tile(4, 2, 4, winograd=2), AVX2),
    "winograd 4": (_conv(VNNI, 64, 96, 3), Tile(6, 3, 4, winograd=4), VNNI),
    "product": (Matmul(197, 192, 100, VNNI.lanes), Tile(6, 2, 4), VNNI),
    "product, pairs": (Matmul(49, 40, 50, SDOT.lanes, 6), Tile(6, 3, 4), SDOT),
    "int8 conv, vnni": (_codes(VNNI, 64, 96, 3), Tile(7, 3, 1), VNNI),
    "int8 conv, amx": (_codes(AMX, 64, 96, 3), Tile(14, 2, 2, 1, 1), AMX),
    "int8 conv, amx, windows gathered": (
        StandaloneKernel(_codes(AMX, 3, 64, 7).geometry.im2col()), Tile(16, 2, 2, 1, 1), AMX,
    ),
    "int8 conv, pmaddwd": (_codes(AVX2, 32, 40, 3), Tile(4, 2, 2), AVX2),
    "int8 conv, pmaddubsw": (_codes(AVX2, 32, 40, 3, small=True), Tile(4, 2, 2), AVX2),
    "int8 conv, smlal": (_codes(A72, 32, 40, 3), Tile(4, 2, 2), A72),
    "int8 conv, sdot": (_codes(SDOT, 64, 96, 3), Tile(4, 4, 1), SDOT),
    "int8 depthwise, vnni": (_codes(VNNI, 96, 96, 3, 96), Tile(7, 1, 1), VNNI),
    "int8 depthwise, avx2": (_codes(AVX2, 96, 96, 3, 96), Tile(7, 1, 1), AVX2),
    "int8 product, vnni": (_codes_product(VNNI, 197, 192, 100), Tile(6, 2, 1), VNNI),
    "int8 product, amx": (_codes_product(AMX, 197, 192, 100), Tile(16, 1, 4, 1, 1), AMX),
    "int8 product, pairs, pmaddwd": (_codes_product(AVX2, 49, 40, 50, 6), Tile(4, 2, 2), AVX2),
    "int8 product, pairs, sdot": (_codes_product(SDOT, 49, 40, 50, 6), Tile(4, 4, 1), SDOT),
}  # fmt: skip


def _lowered(kernel: Kernel, tile: Tile, processor: Processor) -> Any:
    """The module that TVM would make LLVM's code of."""
    import tvm
    from tvm import tirx

    module, _ = scheduled(kernel, tile, processor)
    target = tvm.target.Target(processor.describe())
    passes, *_ = tirx.get_tir_pipeline(register_pipeline(processor.cores))
    return passes(tirx.transform.BindTarget(target.with_host(target))(module))


def _text(module: Any) -> str:
    """A module as text without what is no code: TVM's checks of arguments, and names, which are numbered as they come."""
    from tvm import tirx
    from tvm_ffi import structural_walk

    lines = [line for line in module.script().splitlines() if not line.lstrip().startswith("assert ")]
    text = re.sub(r'metadata\["ir.StringImm"\]\[\d+\]', '"below"', "\n".join(lines))
    names: dict[str, str] = {}
    text = re.sub(r'(?<![\w."])[A-Za-z_]\w*', lambda m: names.setdefault(m[0], f"v{len(names)}"), text)
    imported: list[str] = []

    def note(attr: Any) -> None:
        if attr.attr_key == "pragma_import_llvm":
            imported.append(str(attr.value.value))

    for function in module.functions.values():
        structural_walk(function.body, (tirx.AttrStmt, note))
    return "\n".join([text, *imported])


def _digest(module: Any) -> str:
    return hashlib.sha256(_text(module).encode()).hexdigest()[:16]


def _changed(held: str, version: str, made: dict[str, str]) -> list[str]:
    """Kernels whose code is another than in the golden file, though that is of the same version."""
    head, *lines = held.splitlines()
    before = dict(line.rsplit(": ", 1) for line in lines)
    return [name for name in made if head == version and before.get(name, made[name]) != made[name]]


def test_kernels_change_only_with_the_version_of_the_schedules(golden):
    """Where they changed without it, the golden file is not written either."""
    version = f"schedules {databases.SCHEDULES}, TVM {importlib.metadata.version('apache-tvm')}"
    made = {name: _digest(_lowered(*kernel)) for name, kernel in KERNELS.items()}
    path = GOLDEN / "lowered_kernels.txt"
    if path.exists() and (changed := _changed(path.read_text(), version, made)):
        pytest.fail(
            f"{version} as before, and yet the code of these kernels is another: {'; '.join(changed)}\n  raise SCHEDULES in "
            f"{databases.__file__}, so that seconds of the code before are not used; then pytest --update-golden {__file__}"
        )
    golden("\n".join([version, *(f"{name}: {digest}" for name, digest in made.items())]), "lowered_kernels")


def test_only_other_code_of_the_same_version_is_refused():
    held = "schedules 3, TVM 1\none: aa\ntwo: bb"
    assert not _changed(held, "schedules 3, TVM 1", {"one": "aa", "two": "bb"})
    assert _changed(held, "schedules 3, TVM 1", {"one": "aa", "two": "cc"}) == ["two"]
    assert not _changed(held, "schedules 4, TVM 1", {"one": "aa", "two": "cc"})
    assert not _changed(held, "schedules 3, TVM 2", {"one": "aa", "two": "cc"})
    assert not _changed(held, "schedules 3, TVM 1", {"two": "bb", "three": "cc"}), "another choice of kernels"


def test_the_kernels_use_all_that_there_is():
    """Each instruction, and threads that share rounds."""
    texts = [_text(_lowered(*kernel)) for kernel in KERNELS.values()]
    for word in ("tdpbusd", "vpdpbusd", "pmadd.wd", "pmadd.ub.sw", "sdot", "fxopt_take"):
        assert any(word in text for text in texts), word


def _other_llvm(statement: Any) -> Any:
    from tvm import ir, tirx

    text = ir.StringImm("define void @nothing() { ret void }")
    return tirx.AttrStmt(statement.node, statement.attr_key, text, statement.body)


@pytest.mark.parametrize(
    ("where", "name", "changed", "kernel"),
    [
        (threads, "share", lambda share, loop, cores: share(loop, 2 * cores), "int8 conv, pmaddwd"),
        (threads, "share", lambda share, loop, cores: _other_llvm(share(loop, cores)), "product"),
        (pipelines, "in_threads", lambda in_threads, module, cores: in_threads(module, 1), "depthwise"),
        (tiles, "parallel", lambda parallel, sch, loops: parallel(sch, loops[:1]), "conv, image"),
        (tiles, "tile_loops", lambda loops, sch, sums, tile, _, **more: loops(sch, sums, tile, 0, **more), "conv, few registers"),
        (winograd, "matrices", lambda matrices, side: tuple(-one for one in matrices(side)), "winograd 4"),
        (kernels, "tiling_from", lambda tiling, *task: dataclasses.replace(tiling(*task), chunk=2), "int8 conv, vnni"),
    ],
    ids=["steal", "llvm", "threads", "parallel", "loops", "winograd", "tiling"],
)  # fmt: skip
def test_a_change_anywhere_on_the_way_is_seen(where, name, changed, kernel, monkeypatch):
    before = _digest(_lowered(*KERNELS[kernel]))
    assert _digest(_lowered(*KERNELS[kernel])) == before
    monkeypatch.setattr(where, name, functools.partial(changed, getattr(where, name)))
    assert _digest(_lowered(*KERNELS[kernel])) != before


def test_names_are_no_code():
    @dataclass
    class Doubled:
        name: str
        by: str = "sum"

        def tensors(self, tile: Tile) -> list[Any]:
            from tvm import te

            x = te.placeholder((4096,), name=self.name)
            made = te.compute(x.shape, lambda i: x[i] + x[i] if self.by == "sum" else x[i] * 2.0, name=f"{self.name}_2")
            return [x, made]

    one, other = (_text(_lowered(Doubled(name), Tile(1, 1), VNNI)) for name in ("x", "a_longer_one"))
    assert one == other
    assert one != _text(_lowered(Doubled("x", "product"), Tile(1, 1), VNNI))
