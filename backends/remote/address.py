"""Where a device is: a machine that serves by itself, or any of those behind a tracker that have a key."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fxopt.errors import UsageError

_PORTS = {"rpc": 9090, "tracker": 9190}
_FORM = re.compile(r"(?P<scheme>rpc|tracker)://(?P<host>[^\s:/]+)(:(?P<port>\d{1,5}))?(/(?P<key>[\w.-]+)?)?")


@dataclass(frozen=True)
class Address:
    """``key`` is that of the devices behind a tracker; None for a device by itself."""

    host: str
    port: int
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """From ``rpc://HOST[:PORT]`` or ``tracker://HOST[:PORT]/KEY``. Raises UsageError."""
        found = _FORM.fullmatch(text)
        if found is None or (found["key"] is None) != (found["scheme"] == "rpc"):
            raise UsageError(
                f"{text!r} is no address of a device",
                way_out=(
                    "give rpc://HOST:PORT of a device that serves, or tracker://HOST:PORT/KEY of those that have a key"
                ),
            )
        return cls(found["host"], int(found["port"] or _PORTS[found["scheme"]]), found["key"])
