"""The weights that the steps of a pipeline share: a pass that changes one in place is found by checksum."""

from __future__ import annotations

import ctypes
import zlib

import torch

from fxopt.errors import VerifyError
from fxopt.ir.alias_analysis import state_of
from fxopt.ir.program import Program

STORE = "Pass developer: store another tensor by program.set_tensor, swap_tensor or add_tensor"


class SharedWeights:
    """Checksums of the weights of a program and its copies, each computed once.

    torch counts writes to a tensor, but not those through ``.data`` or NumPy; bytes at 4 GB/s tell all of them.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def note(self, program: Program) -> None:
        """Sum up the weights of ``program`` that copies of it will share, and forget those of others."""
        state = state_of(program)
        storages = [t.untyped_storage() for t in program.tensors().values() if id(t) not in state]
        self._known = {s.data_ptr(): self._known.get(s.data_ptr()) or (s, _sum(s)) for s in storages}

    def check(self, program: Program) -> None:
        """Check that the weights of ``program`` are as they were. Raises VerifyError that names those that are not."""
        changed = []
        for name, tensor in program.tensors().items():
            known = self._known.get(tensor.untyped_storage().data_ptr())
            if known is not None and _sum(known[0]) != known[1]:
                changed.append(name)
        if changed:
            raise VerifyError(
                f"the pass changed {', '.join(changed)} in place\n  other nodes may read a weight, and copies of the program "
                "share it",
                way_out=STORE,
            )


def _sum(storage: torch.UntypedStorage) -> int:
    size = storage.nbytes()
    if storage.device.type != "cpu" or not size:
        return 0
    return zlib.crc32((ctypes.c_char * size).from_address(storage.data_ptr()))
