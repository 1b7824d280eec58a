"""A compiled module as a shared library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fxopt.support.scratch import scratch_folder

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Executable

_OBJECTS = ("lib0.o", "lib1.o", "devc.o")
"""Names under which TVM has LLVM write the machine code that it then links."""


def link(executable: Executable, path: Path, compiler: str | None) -> None:
    """Link a library in a folder of its own, so that it contains no path of this machine; ``compiler`` None is g++."""
    with scratch_folder() as folder, _in_memory(folder):
        executable.export_library(str(path), workspace_dir=str(folder), cc=compiler)


@contextlib.contextmanager
def _in_memory(folder: Path) -> Iterator[None]:
    """Have objects of ``folder`` written to memory: on a full disk LLVM ends the whole process, while a linker reports it."""
    if not hasattr(os, "memfd_create"):  # elsewhere than on Linux
        yield
        return
    files = [os.memfd_create(name) for name in _OBJECTS]
    try:
        for name, file in zip(_OBJECTS, files, strict=True):
            (folder / name).symlink_to(f"/proc/{os.getpid()}/fd/{file}")
        yield
    finally:
        for file in files:
            os.close(file)
