"""Signatures of artifacts: of the manifest, which holds the sha256 of every other file.

Keys and signatures are those of minisign (https://jedisct1.github.io/minisign), Ed25519 over BLAKE2b: a signature from here
is verified by ``minisign -Vm manifest.json -p KEY``, on a device without Python too, and vice versa.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fxopt.errors import BackendError, UsageError
from fxopt.runtime.read_manifest import read_manifest
from fxopt.runtime.staging import MANIFEST, SIGNATURE

_LARGEST = 10_000
"""Bytes of the largest key or signature that is read."""


def make_key(path: Path, password: str) -> Path:
    """Write a new secret key to ``path``, encrypted unless ``password`` is empty, and return the file of the public one.

    Raises UsageError where a file is there already or cannot be written.
    """
    minisign = _library()
    pair = minisign.KeyPair.generate()
    public = path.with_name(f"{path.name}.pub")
    if password:
        pair.secret_key.encrypt(password)
    try:
        for file, content, mode in ((path, pair.secret_key, 0o600), (public, pair.public_key, 0o644)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                out.write(bytes(content) + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or path}: {error.strerror}; a key is never replaced") from None
    return public


def sign(folder: Path, key: Path, password: Callable[[], str]) -> Path:
    """Sign an artifact by a secret key, whose ``password`` is asked for if it has one; return the file of the signature.

    Raises BackendError for what is no artifact, UsageError for a key that cannot be used.
    """
    minisign = _library()
    read_manifest(folder)
    secret = _read(key, minisign.SecretKey, "a secret key of minisign")
    try:
        if secret.is_encrypted():
            secret.decrypt(password())
        made = secret.sign((folder / MANIFEST).read_bytes())
    except minisign.Error as error:
        raise UsageError(f"{key}: {error}") from None
    beside = folder / f".{SIGNATURE}.new"
    try:
        beside.write_bytes(bytes(made) + b"\n")
        return beside.replace(folder / SIGNATURE)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError(f"cannot write {folder / SIGNATURE}: {error.strerror}") from None


def verify(folder: Path, key: Path) -> str:
    """Raise BackendError unless an artifact was signed by the owner of a public key and has not changed since.

    Returns the signed comment, which has the time. Raises UsageError for a key that cannot be used.
    """
    minisign = _library()
    public = _read(key, minisign.PublicKey, "a public key of minisign")
    if not (folder / SIGNATURE).is_file():
        raise BackendError(f"{folder} is not signed", way_out="sign it where it was built: fxopt sign")
    try:
        signature = minisign.Signature.from_bytes(_bytes(folder / SIGNATURE))
        public.verify((folder / MANIFEST).read_bytes(), signature)
    except (OSError, ValueError) as error:  # minisign.Error is a ValueError
        raise BackendError(
            f"{folder / MANIFEST} does not have the signature of {key}: {error}",
            way_out="do not load it; get it again from whom you trust",
        ) from None
    read_manifest(folder)
    return str(signature.trusted_comment)


def _read(path: Path, kind: Any, what: str) -> Any:
    try:
        return kind.from_bytes(_bytes(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not {what}: {error}", way_out="make a pair of keys: fxopt new key") from None


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST)


def _library() -> Any:
    try:
        import minisign
    except ImportError:
        raise UsageError("signatures need py-minisign: pip install 'fxopt[sign]'") from None
    return minisign
