"""A context that records which of its parts a pass reads, and the digest of just these, now or in a later run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from fxopt.backend import Backend
from fxopt.ir.program_state import program_digest
from fxopt.numerics.compute_device import device_key
from fxopt.pass_manager.context import Context
from fxopt.support.code_stamp import code_stamp
from fxopt.support.observed import file_digest
from fxopt.workload import Workload
from fxopt.workload.data_reads import DataReads, watched
from fxopt.workload.value_key import Unkeyed, value_key

_PARTS = ("workload", "target", "backend", "original", "device")


@dataclass
class Reads:
    """Parts of the context, reads of the data, files and modules: everything that a step depends on besides its program."""

    parts: set[str] = field(default_factory=set)
    data: DataReads = field(default_factory=DataReads)
    files: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"parts": sorted(self.parts), "data": self.data.to_list(), "files": sorted(self.files),
                "modules": sorted(self.modules)}  # fmt: skip

    @classmethod
    def of(cls, values: dict[str, Any]) -> Reads:
        """Back from :meth:`to_dict`."""
        data = DataReads(values["data"])
        return cls(set(values["parts"]), data, set(values["files"]), set(values["modules"]))


class _Noting(Context):
    """A context that records reads of its parts."""

    def __getattribute__(self, name: str) -> Any:
        if name in _PARTS:
            object.__getattribute__(self, "_reads").parts.add(name)
        return object.__getattribute__(self, name)


def noting(context: Context, reads: Reads) -> Context:
    """The same context, which records in ``reads`` the parts that are read."""
    workload = context.workload and watched(context.workload, reads.data)
    made = _Noting.__new__(_Noting)
    object.__setattr__(made, "_reads", reads)
    _Noting.__init__(made, workload, context.target, context.backend, context.original, context.device)
    reads.parts.clear()
    return made


class ContextKeys:
    """Digests of the parts of one context, each computed once, on first use."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._own: str | None = None
        if context.workload is not None and context.workload.data is not None:
            with contextlib.suppress(Unkeyed):  # now: data may load and count as they are used
                self._own = value_key(context.workload.data)

    def digest(self, reads: dict[str, Any]) -> str | None:
        """sha256 of the present state of all that ``reads`` names; None where some of it has no digest."""
        try:
            found = [self._part(part) for part in reads["parts"]]
            if "workload" in reads["parts"]:
                found.append(self._data(json.dumps(reads["data"])))
        except Unkeyed:
            return None
        found += [file_digest(path) for path in reads["files"]]
        if reads["modules"]:
            if (stamp := code_stamp(*reads["modules"])) is None:
                return None
            found.append(stamp)
        return hashlib.sha256("\n".join(found).encode()).hexdigest()

    @functools.cache  # noqa: B019  (it lives as long as a run)
    def _part(self, part: str) -> str:
        value = getattr(self._context, part)
        if value is None:
            return "none"
        if isinstance(value, Workload):
            return value.name
        if part == "device":
            return device_key(value)
        if part == "target":
            return json.dumps(value.to_dict(), sort_keys=True)
        if isinstance(value, Backend):
            return value_key((str(value), value))
        digest = program_digest(value)
        if digest is None:
            raise Unkeyed("the original program")
        return digest

    @functools.cache  # noqa: B019
    def _data(self, reads: str) -> str:
        workload = self._context.workload
        if workload is None or workload.data is None:
            return "none"
        if self._own is None:
            raise Unkeyed("the data of the workload")
        return DataReads(json.loads(reads)).digest(workload.data, self._own)
