"""What runs on the device: it answers one session after the other, each in a process of its own.

Greetings are read without waiting for any of them, so that a connection that is silent, slow or sends other bytes is closed
and holds nobody up. Only one whose key is right becomes a session, of TVM's own server.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fxopt.backends.remote import token
from fxopt.backends.remote.address import Address
from fxopt.backends.remote.child import hide_torch
from fxopt.backends.remote.greeting import LONGEST, Greeting, NotOurs, accepted, refused
from fxopt.backends.remote.service import register
from fxopt.backends.remote.session import Session
from fxopt.backends.remote.tracker import Registration
from fxopt.errors import UsageError

_GREETING, _GREETINGS, _WAITING, _PAUSE = 5.0, 64, 8, 1.0
"""Seconds for a greeting, how many are read at once, how many sessions wait for their turn, seconds between two looks."""
_PORTS = range(9090, 9200)
"""Where a device behind a tracker listens: the first of these that is free."""


def serve(address: Address, bind: str | None, say: Callable[[str], None]) -> None:
    """Serve until stopped: at the address, or for the tracker that has it, on the interface ``bind``.

    Raises UsageError where others than this machine could connect and there is no token, and DeviceError.
    """
    here = bind or (address.host if address.key is None else "127.0.0.1")
    secret = token.token()
    if secret is None and not token.is_loopback(here):
        raise UsageError(
            f"whoever connects to a device runs code there, and {here} is open to others",
            way_out=(
                "leave it on 127.0.0.1 and use an SSH tunnel: ssh -L 9090:127.0.0.1:9090 DEVICE; or give the device, and "
                f"where it is used from, the same token: {token.make()}"
            ),
        )
    hide_torch()
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
    register()
    listening, port = _listen(here, range(address.port, address.port + 1) if address.key is None else _PORTS)
    registration = None if address.key is None else Registration(address, port)
    behind = "" if registration is None else f", for the tracker at {address.host}:{address.port} as {address.key}"
    server = _Server(listening, secret, registration, say)
    try:
        server.register()  # who is told that it serves can ask the tracker for it
        say(f"serving at {here}:{port}{behind}{', with a token' if secret else ''}; Ctrl-C ends it")
        while True:
            server.step()
    finally:
        server.close()


def _listen(host: str, ports: range) -> tuple[socket.socket, int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except (OSError, OverflowError) as error:
            listening.close()
            last = error
            continue
        listening.listen(_GREETINGS)
        listening.setblocking(False)
        return listening, port
    raise UsageError(f"cannot serve at {host}:{ports[0]}: {last}; give another port: rpc://{host}:PORT")


@dataclass
class _Guest:
    """A connection whose greeting is not there yet."""

    connection: socket.socket
    greeting: Greeting = field(default_factory=Greeting)
    ends: float = field(default_factory=lambda: time.monotonic() + _GREETING)


class _Server:
    """The connections of a device: strangers, those whose turn will come, and the session."""

    def __init__(
        self,
        listening: socket.socket,
        secret: str | None,
        registration: Registration | None,
        say: Callable[[str], None],
    ) -> None:
        self._listening, self._secret, self._registration, self._say = listening, secret, registration, say
        self._guests: dict[int, _Guest] = {}
        self._waiting: list[tuple[socket.socket, float | None]] = []
        self._session: Session | None = None
        self._nonces = token.Nonces()
        self._lost_tracker = False
        self._ready = selectors.DefaultSelector()
        self._ready.register(listening, selectors.EVENT_READ, self._welcome)

    def step(self) -> None:
        """Wait for something to happen, at most a second, and answer it."""
        if self._session is None and self._waiting:
            self._begin(*self._waiting.pop(0))
        elif self._session is None:
            self.register()
        for key, _ in self._ready.select(_PAUSE):
            key.data()
        now = time.monotonic()
        for guest in [guest for guest in self._guests.values() if guest.ends < now]:
            self._dismiss(guest)
        if self._session and self._session.ends is not None and self._session.ends < now:
            self._end()

    def close(self) -> None:
        """End the session, and close all connections."""
        if self._session:
            self._session.kill()
        self._forget()
        if self._registration:
            self._registration.close()

    def register(self) -> None:
        """See that the tracker, if there is one, knows the device."""
        if self._registration is None:
            return
        try:
            self._registration.refresh()
            self._lost_tracker = False
        except OSError as error:
            if not self._lost_tracker:
                self._say(f"{error}; trying again")
            self._lost_tracker = True

    def _welcome(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError:  # it was gone before it was accepted
            return
        connection.setblocking(False)
        if len(self._guests) >= _GREETINGS:
            self._dismiss(next(iter(self._guests.values())))
        guest = self._guests[connection.fileno()] = _Guest(connection)
        self._ready.register(connection, selectors.EVENT_READ, lambda: self._hear(guest))

    def _hear(self, guest: _Guest) -> None:
        try:
            data = guest.connection.recv(LONGEST + 9)
            key = guest.greeting.feed(data) if data else ""
        except BlockingIOError:
            return
        except (OSError, NotOurs):
            key = ""
        if key is None:
            return
        self._dismiss(guest, keep=bool(key))
        if not key:
            return
        word, *options = key.split(" ")
        answer = self._answer(word)
        if answer is None and len(self._waiting) < _WAITING:
            if self._registration:
                self._registration.taken()
            self._waiting.append((guest.connection, _seconds(options)))
            return
        with contextlib.suppress(OSError):
            guest.connection.sendall(answer or refused())
        guest.connection.close()

    def _answer(self, key: str) -> bytes | None:
        """What to say to a key before the connection is closed; None for one that may have a session."""
        if key == token.NONCE_KEY:
            nonce = "" if self._secret is None else self._nonces.give() if self._registration is None else "tracker"
            return accepted(f"server:{nonce}")
        found = key.removeprefix("client:")
        if self._registration is None:
            nonce = "" if self._secret is None else found.partition(".")[0]
            known = self._secret is None or self._nonces.take(nonce)
        else:
            nonce = self._registration.match_key or ""
            known = bool(nonce)
        fits = found == nonce if self._secret is None else token.proves(found, self._secret, nonce)
        return None if key.startswith("client:") and known and fits else refused()

    def _begin(self, connection: socket.socket, seconds: float | None) -> None:
        connection.setblocking(True)
        try:
            connection.sendall(accepted("server:"))
            peer = connection.getpeername()[0]
        except OSError:  # it did not wait
            connection.close()
            return
        self._say(f"a session with {peer} begins")
        self._session = Session(connection, seconds, self._forget)
        self._ready.register(self._session.sentinel, selectors.EVENT_READ, self._end)

    def _end(self) -> None:
        assert self._session is not None
        self._ready.unregister(self._session.sentinel)
        if told := self._session.close():
            self._say(f"a session ended badly: {told}; serving on")
        self._session = None

    def _dismiss(self, guest: _Guest, *, keep: bool = False) -> None:
        """Stop listening to a guest, and close its connection."""
        self._ready.unregister(guest.connection)
        del self._guests[guest.connection.fileno()]
        if not keep:
            guest.connection.close()

    def _forget(self) -> None:
        """Close what a session must not hold open."""
        self._ready.close()
        self._listening.close()
        for connection in [*(guest.connection for guest in self._guests.values()), *(c for c, _ in self._waiting)]:
            connection.close()


def _seconds(options: list[str]) -> float | None:
    """How long a client wants its session to last."""
    for option in options:
        with contextlib.suppress(ValueError):
            if option.startswith("-timeout="):
                return min(max(float(option.removeprefix("-timeout=")), 1.0), 86400.0)
    return None
