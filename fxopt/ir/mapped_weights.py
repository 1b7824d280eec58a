"""Copies of weights that lie in a file: mapped once more, privately, so that they take no memory until they are written.

``safetensors`` and ``torch.load(mmap=True)`` map weights from their file. Pages of a private mapping are those of the
file, which the system may drop and read again, and a write goes to a page of one's own. The kernel's table of mappings
(``/proc/self/maps``, Linux) says which file an address is of, whatever mapped it.
"""

from __future__ import annotations

import bisect
import functools
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from fxopt.ir.program import Program

_TABLE = Path("/proc/self/maps")


@dataclass(frozen=True)
class _Mapping:
    """The bytes from ``start`` to ``end`` of this process are those of a file from ``offset``."""

    start: int
    end: int
    offset: int
    inode: int
    path: str


class MappedFiles:
    """The files that are mapped into this process when the first weight is looked up."""

    def copy(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """A copy of a weight that is a mapped part of a file; None for any other, and for one that was written into.

        So it is for one smaller than a page, of which a mapping would take one. The file must stay as it is while the copy
        is in use, as for the weight itself.
        """
        size = tensor.numel() * tensor.itemsize
        if (
            size < mmap.PAGESIZE
            or tensor.device.type != "cpu"
            or tensor.layout != torch.strided
            or not _is_dense(tensor)
        ):
            return None
        mapping = self._at(tensor.data_ptr(), size)
        if mapping is None:
            return None
        place = mapping.offset + tensor.data_ptr() - mapping.start
        before = place % mmap.ALLOCATIONGRANULARITY
        try:
            with Path(mapping.path).open("rb") as file:
                if os.fstat(file.fileno()).st_ino != mapping.inode:
                    return None
                memory = mmap.mmap(
                    file.fileno(),
                    before + size,
                    mmap.MAP_PRIVATE,
                    mmap.PROT_READ | mmap.PROT_WRITE,
                    offset=place - before,
                )
        except (OSError, ValueError):
            return None
        flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=before)
        same = torch.equal(flat.view(torch.uint8), _flat(tensor).view(torch.uint8))
        memory.madvise(mmap.MADV_DONTNEED)  # the comparison read every page
        copy = flat.as_strided(tensor.shape, tensor.stride())
        if isinstance(tensor, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, tensor.requires_grad)
        return copy if same else None

    @functools.cached_property
    def _lines(self) -> list[str]:
        """The kernel's table, by address; a process has thousands, of which few are read."""
        return _TABLE.read_text().splitlines() if _TABLE.exists() else []

    def _at(self, address: int, size: int) -> _Mapping | None:
        place = bisect.bisect_right(self._lines, address, key=_start) - 1
        mapping = _read(self._lines[place]) if place >= 0 else None
        return mapping if mapping is not None and address + size <= mapping.end else None


def mapped_again(program: Program) -> dict[int, torch.Tensor]:
    """By the ``id`` of each weight of a program that is mapped from a file a copy of it, for :meth:`Program.copy`."""
    files = MappedFiles()
    copies: dict[int, torch.Tensor] = {}
    for tensor in program.tensors().values():
        if id(tensor) not in copies and (copy := files.copy(tensor)) is not None:
            copies[id(tensor)] = copy
    return copies


def _start(line: str) -> int:
    return int(line.partition("-")[0], 16)


def _read(line: str) -> _Mapping | None:
    """A line ``start-end rwxp offset device inode path``; None for memory that is of no file, or of one that is gone."""
    span, _, offset, _, inode, *path = line.split(maxsplit=5)
    if not path or not path[0].startswith("/") or path[0].endswith(" (deleted)"):
        return None
    start, end = (int(text, 16) for text in span.split("-"))
    return _Mapping(start, end, int(offset, 16), int(inode), path[0])


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether its elements are all those of a range of memory, in whatever order."""
    return torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().as_strided((tensor.numel(),), (1,))
