"""A tracker of TVM: devices register there under a key, and are asked for by it."""

from __future__ import annotations

import secrets
import socket
import struct
import time
from typing import Any

from fxopt.backends.remote.address import Address
from fxopt.errors import DeviceError

_PING, _UNUSED, _SECONDS = 2.0, 8.0, 10.0
"""Seconds between two questions, until a key that was given out and not used is given up, and that an answer may take."""


class Registration:
    """A device at ``port`` with a tracker: its ``match_key`` is what a client that the tracker sends must have."""

    def __init__(self, address: Address, port: int) -> None:
        self.address, self._port = address, port
        self.match_key: str | None = None
        self._connection: socket.socket | None = None
        self._due = self._seen = 0.0

    def refresh(self) -> None:
        """While the device is free: be registered, under a new key where the old one was given out and not used.

        Raises OSError where the tracker cannot be reached, DeviceError where it is none.
        """
        from tvm.rpc import base

        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _PING
        try:
            if self.match_key is not None:
                pending = self._ask([base.TrackerCode.GET_PENDING_MATCHKEYS])
                if self.match_key in pending:
                    self._seen = now
                if now - self._seen < _UNUSED:
                    return
            self.match_key, self._seen = f"{self.address.key}:{secrets.token_hex(16)}", now
            self._ask([base.TrackerCode.PUT, self.address.key, (self._port, self.match_key), None])
        except (OSError, ValueError) as error:
            self.close()
            raise OSError(f"the tracker at {self.address.host}:{self.address.port}: {error}") from None

    def _ask(self, question: list[Any]) -> Any:
        from tvm.rpc import base

        if self._connection is None:
            self._connection = self._connect()
        base.sendjson(self._connection, question)
        return base.recvjson(self._connection)

    def _connect(self) -> socket.socket:
        from tvm.rpc import base

        made = socket.create_connection((self.address.host, self.address.port), timeout=_SECONDS)
        made.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        if struct.unpack("<i", base.recvall(made, 4))[0] != base.RPC_TRACKER_MAGIC:
            made.close()
            raise DeviceError(f"what is at {self.address.host}:{self.address.port} is no tracker of TVM")
        facts = {"key": f"server:{self.address.key}", "addr": (None, self._port)}
        base.sendjson(made, [base.TrackerCode.UPDATE_INFO, facts])
        base.recvjson(made)
        return made

    def taken(self) -> None:
        """The key was used; the next :meth:`refresh` makes another, at once."""
        self.match_key, self._due = None, 0.0

    def close(self) -> None:
        """Forget the connection and the key; the next :meth:`refresh` makes others."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self.match_key = None


def request(tracker: Any, key: str) -> tuple[str, int, str]:
    """Wait until a device of a key is free; its host, port and match key. ``tracker`` is TVM's own session with one."""
    from tvm.rpc import base

    base.sendjson(tracker._sock, [base.TrackerCode.REQUEST, key, "", 1])
    code, found = base.recvjson(tracker._sock)
    if code != base.TrackerCode.SUCCESS:
        raise OSError(f"the tracker answers {found}")
    host, port, match_key = found
    return str(host), int(port), str(match_key)
