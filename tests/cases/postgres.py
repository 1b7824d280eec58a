"""A PostgreSQL of one's own: a fresh cluster, until the block ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cases.network import free_port


def cannot_start() -> str | None:
    """Why no cluster can be started here; None if one can."""
    if _binaries() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.getuid() == 0 and _owner() is None:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A cluster that keeps nothing; gives the URL of its database for SQLAlchemy."""
    binaries, owner = _binaries(), _owner()
    assert binaries is not None
    with tempfile.TemporaryDirectory(prefix="fxopt-pg-", dir="/tmp") as name:  # a socket's path must be short
        folder = Path(name)
        if owner:
            shutil.chown(folder, owner)
        port = free_port()

        def run(*command: str | Path) -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=owner, cwd=folder)

        run(binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", "search", "-N")
        flags = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run(binaries / "pg_ctl", "-D", folder / "data", "-o", flags, "-l", folder / "log", "-w", "start")
        try:
            yield f"postgresql+psycopg://search@127.0.0.1:{port}/postgres"
        finally:
            run(binaries / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else (Path(p).parent if (p := shutil.which("initdb")) else None)


def _owner() -> str | None:
    """The user to run it: PostgreSQL refuses to run as root; None for whoever this is."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name if os.getuid() == 0 else None
    return None
