"""A device among strangers: what they send closes their own connection, and without the token nothing runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest
from cases import network

from fxopt.backends.remote import token
from fxopt.backends.remote.device import RpcDevice
from fxopt.backends.remote.greeting import LONGEST, Greeting, NotOurs, ask, greet
from fxopt.backends.tvm import Tvm
from fxopt.errors import DeviceError, UsageError

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)

SECRET = "a token that is long enough"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A device of this machine that wants a token: its host and port, and its process."""
    port, log = network.free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "fxopt", "serve", f"rpc://127.0.0.1:{port}"]
    env = {**os.environ, token.VARIABLE: SECRET}
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    while "serving at" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    yield ("127.0.0.1", port), process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answer(at, data: bytes) -> bytes:
    """All that comes back until the connection is closed."""
    with socket.create_connection(at, timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(1000):
            found += part
        return found


GARBAGE = {
    "eight bytes": b"12345678",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a negative length": struct.pack("<Ii", 0xFF271, -1),
    "a huge length": struct.pack("<Ii", 0xFF271, 2**31 - 1) + b"x" * 100,
    "more than a greeting": greet("client:") + b"x",
    "no text": struct.pack("<Ii", 0xFF271, 4) + b"\xff\xfe\xfd\xfc",
    "a megabyte": b"\0" * 1_000_000,
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_closes_its_own_connection_alone(kind, served):
    at, process = served
    with contextlib.suppress(ConnectionError):  # closed before all of it was sent
        assert _answer(at, GARBAGE[kind]) in (b"", struct.pack("<I", 0xFF273))
    assert process.poll() is None
    assert ask(*at, token.NONCE_KEY), "the next greeting is answered"


def test_silent_connections_hold_nobody_up_and_are_closed(served):
    at, process = served
    silent = [socket.create_connection(at, timeout=30) for _ in range(100)]
    begun = time.monotonic()
    assert ask(*at, token.NONCE_KEY)
    assert time.monotonic() - begun < 4, "before any of them is given up"
    for connection in silent:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b"", "closed by the device"
        connection.close()
    assert process.poll() is None


@pytest.mark.parametrize("key", ["client:", "client:wrong", f"client:{SECRET}", "server:", "", "client:." + 64 * "0"])
def test_without_the_proof_there_is_no_session(key, served):
    at, _ = served
    assert ask(*at, key) is None if key else True
    nonce = str(ask(*at, token.NONCE_KEY)).removeprefix("server:")
    assert ask(*at, f"client:{token.prove('another token that is long', nonce)}") is None


def test_a_proof_is_good_once(served):
    at, _ = served
    nonce = str(ask(*at, token.NONCE_KEY)).removeprefix("server:")
    proof = token.prove(SECRET, nonce)
    assert ask(*at, f"client:{proof} -timeout=5") == "server:"
    assert ask(*at, f"client:{proof} -timeout=5") is None
    assert ask(*at, f"client:{token.prove(SECRET, 'made up')}") is None


def test_with_the_token_it_is_a_device_and_without_it_says_what_is_missing(served, monkeypatch):
    (host, port), _ = served
    with pytest.raises(DeviceError, match=f"wants a token(.|\n)*{token.VARIABLE}"):
        RpcDevice(f"rpc://{host}:{port}").facts()
    monkeypatch.setenv(token.VARIABLE, "not the token of the device")
    with pytest.raises(DeviceError, match="has another token"):
        RpcDevice(f"rpc://{host}:{port}").facts()
    monkeypatch.setenv(token.VARIABLE, SECRET)
    device = RpcDevice(f"rpc://{host}:{port}")
    assert device.facts()["cores"]
    device.rest()


@pytest.mark.parametrize("address", ["rpc://0.0.0.0:9091", "rpc://127.0.0.1:9091", "tracker://127.0.0.1:9/pi"])
def test_others_can_connect_only_with_a_token(address, monkeypatch):
    monkeypatch.delenv(token.VARIABLE, raising=False)
    with pytest.raises(UsageError, match=r"open to others(.|\n)*ssh -L(.|\n)*FXOPT_DEVICE_TOKEN"):
        RpcDevice(address).serve("0.0.0.0", print)
    monkeypatch.setenv(token.VARIABLE, "short")
    with pytest.raises(UsageError, match="5 characters"):
        RpcDevice(address).serve("0.0.0.0", print)


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_a_greeting_may_come_in_pieces(pieces):
    data, greeting = greet("client:abc -timeout=3"), Greeting()
    found = [greeting.feed(data[i : i + pieces]) for i in range(0, len(data), pieces)]
    assert found[-1] == "client:abc -timeout=3"
    assert found[:-1] == [None] * (len(found) - 1)


def test_no_more_is_kept_than_the_longest_greeting():
    with pytest.raises(NotOurs):
        Greeting().feed(greet("x" * (LONGEST + 1)))


def test_loopback_is_this_machine_alone():
    assert all(map(token.is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8", "[::1]")))
    assert not any(map(token.is_loopback, ("0.0.0.0", "::", "192.168.1.2", "localhost.example.org", "")))
