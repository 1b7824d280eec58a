"""The first bytes of a connection, as TVM's protocol has them: a magic number and a key; then its answer, a code and a key.

What arrives is a stranger's until its key was checked, so that it is bounded, and never waited for.
"""

from __future__ import annotations

import socket
import struct

MAGIC, MISMATCH = 0xFF271, 0xFF273
"""What both sides begin with, and the code of a key that is refused."""
LONGEST = 400
"""Bytes of the longest key that is read."""


class NotOurs(Exception):
    """What arrived is no greeting; the text says why."""


class Greeting:
    """The greeting of one connection, as it arrives."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> str | None:
        """Take in what arrived; return the key when it is there as a whole. Raises :class:`NotOurs`."""
        self._bytes += data
        if len(self._bytes) < 8:
            return None
        magic, length = struct.unpack("<Ii", self._bytes[:8])
        if magic != MAGIC or not 0 <= length <= LONGEST:
            raise NotOurs("other bytes than a greeting")
        if len(self._bytes) < 8 + length:
            return None
        if len(self._bytes) > 8 + length:
            raise NotOurs("more bytes than a greeting")
        try:
            return self._bytes[8:].decode("ascii")
        except UnicodeDecodeError:
            raise NotOurs("a key that is no text") from None


def greet(key: str) -> bytes:
    """The greeting with a key."""
    return struct.pack("<Ii", MAGIC, len(key)) + key.encode()


def accepted(key: str) -> bytes:
    """The answer to a greeting that is accepted."""
    return greet(key)  # the code of success is the magic number


def refused() -> bytes:
    """The answer to a greeting whose key is refused."""
    return struct.pack("<I", MISMATCH)


def ask(host: str, port: int, key: str, seconds: float = 10.0) -> str | None:
    """Send a greeting with ``key`` and return the key of the answer, None where it is refused.

    Raises OSError, and :class:`NotOurs` where something else answers.
    """
    with socket.create_connection((host, port), timeout=seconds) as connection:
        connection.sendall(greet(key))
        answer = Greeting()
        while data := connection.recv(LONGEST + 8):
            if data.startswith(refused()):
                return None
            if (found := answer.feed(data)) is not None:
                return found
    raise NotOurs("no answer")
