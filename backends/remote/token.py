"""Who may use a device: those who know its token, which never goes over the network.

The device gives a number that it uses once, and the client proves by HMAC-SHA256 (RFC 2104) of it that it knows the token.
This keeps strangers out. It does not hide what is sent afterwards, nor keep somebody who can change it from doing so: that
is what an SSH tunnel is for, see docs/trust.md.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import time

from fxopt.errors import UsageError

VARIABLE = "FXOPT_DEVICE_TOKEN"
"""The environment variable that holds the token, on the device and where it is used from."""
NONCE_KEY = "client:fxopt-nonce"
"""The key that asks a device for a number to be used once; the answer has none where the device wants no token."""
_SHORTEST, _LIVES, _MOST = 20, 60.0, 256


def token() -> str | None:
    """The token, None where there is none. Raises UsageError for one that could be guessed."""
    found = os.environ.get(VARIABLE)
    if found and len(found) < _SHORTEST:
        raise UsageError(
            f"{VARIABLE} has {len(found)} characters", way_out=f"make one of at least {_SHORTEST}: {make()}"
        )
    return found or None


def make() -> str:
    """The command that makes a token."""
    return f"export {VARIABLE}=$(python3 -c 'import secrets; print(secrets.token_hex(32))')"


def prove(secret: str, nonce: str) -> str:
    """The key of a client that was given a number: the number, and the proof that it knows the token."""
    proof = hmac.digest(secret.encode(), f"fxopt device {nonce}".encode(), "sha256").hex()
    return f"{nonce}.{proof}"


def proves(key: str, secret: str, nonce: str) -> bool:
    """Whether a key is that of a client that knows the token."""
    return hmac.compare_digest(key.encode(), prove(secret, nonce).encode())


class Nonces:
    """Numbers that were given out: each is good once, for a minute."""

    def __init__(self) -> None:
        self._given: dict[str, float] = {}

    def give(self) -> str:
        """A new one."""
        while len(self._given) >= _MOST:
            del self._given[next(iter(self._given))]
        nonce = secrets.token_hex(16)
        self._given[nonce] = time.monotonic() + _LIVES
        return nonce

    def take(self, nonce: str) -> bool:
        """Whether it was given out and not used yet; it is used now."""
        return self._given.pop(nonce, 0.0) > time.monotonic()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
