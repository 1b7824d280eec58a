"""A session with a device, from TVM's own client."""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any

from fxopt.backends.remote import token
from fxopt.backends.remote.address import Address
from fxopt.backends.remote.greeting import ask
from fxopt.backends.remote.tracker import request
from fxopt.errors import DeviceError, last_line

_SESSION = 3600
"""Seconds after which a device ends a session by itself, so that one whose other end is lost does not hold it for ever."""
_TOKEN = f"set {token.VARIABLE} here to the one that the device was started with"


def connect(address: Address) -> Any:
    """Open a session; behind a tracker, wait until a device of the key is free. Raises DeviceError."""
    opened = _reach(address)
    if address.key is None:
        return opened
    _count(opened, address)
    try:
        host, port, match_key = request(opened, address.key)
    except (OSError, ValueError) as error:
        raise DeviceError(f"the tracker at {address.host}:{address.port} was lost: {error}") from None
    return _session(host, port, match_key)


def devices_behind(address: Address) -> int:
    """How many devices there are at an address. Raises DeviceError where there is none."""
    return 1 if address.key is None else _count(_reach(address), address)


def _reach(address: Address) -> Any:
    """A session with the device, or a connection to the tracker."""
    from tvm import rpc

    _reachable(address)
    try:
        if address.key is None:
            return _session(address.host, address.port)
        return rpc.connect_tracker(address.host, address.port)
    except DeviceError:
        raise
    except Exception as error:
        where = f"{address.host}:{address.port}"
        raise DeviceError(f"{where} answers, but not as TVM's {_kind(address)} does: {last_line(error)}") from None


def _session(host: str, port: int, match_key: str | None = None) -> Any:
    """A session of TVM's client; ``match_key`` is what a tracker gave. Raises DeviceError where the token is not right."""
    from tvm import rpc

    nonce = (ask(host, port, token.NONCE_KEY) or "").removeprefix("server:")
    if not nonce:  # it wants no token
        return rpc.connect(host, port, match_key or "", session_timeout=_SESSION)
    secret = token.token()
    if secret is None:
        raise DeviceError(f"the device at {host}:{port} wants a token", way_out=_TOKEN)
    try:
        return rpc.connect(host, port, token.prove(secret, match_key or nonce), session_timeout=_SESSION)
    except Exception:
        raise DeviceError(f"the device at {host}:{port} has another token, or was lost", way_out=_TOKEN) from None


def _count(tracker: Any, address: Address) -> int:
    """How many devices a tracker has for the key of an address. Raises DeviceError for none."""
    known = Counter(server["key"].partition(":")[2] for server in tracker.summary()["server_info"])
    if address.key in known:
        return known[address.key]
    where, there = f"{address.host}:{address.port}", ", ".join(sorted(known)) or "none"
    raise DeviceError(
        f"the tracker at {where} knows no device with the key {address.key!r}; keys of devices there: {there}",
        way_out=f"start one: fxopt serve tracker://{where}/{address.key}",
    )


def _reachable(address: Address) -> None:
    """Raise DeviceError where nothing listens: TVM's client would wait for a minute."""
    try:
        socket.create_connection((address.host, address.port), timeout=10).close()
    except OSError as error:
        command = "fxopt serve" if address.key is None else "python -m tvm.exec.rpc_tracker"
        raise DeviceError(
            f"no {_kind(address)} can be reached at {address.host}:{address.port}: {error.strerror or error}",
            way_out=f"is it on, and does `{command}` run there?",
        ) from None


def _kind(address: Address) -> str:
    return "device" if address.key is None else "tracker"
