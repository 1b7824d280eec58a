"""The C++ program of a bundle, compiled for the target."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from fxopt.errors import BackendError
from fxopt.target.cross_compiler import cross_compiler


def compile_program(stage: Path, units: Iterable[str], libraries: Iterable[str], triple: str) -> str:
    """Compile ``bin/run`` in the folder ``stage``, of ``units`` in its ``src/`` and ``libraries`` in its ``lib/``.

    Return the command, which anybody can repeat there. Raises BackendError where the compiler refuses it.

    The C++ standard library is the device's: the runtimes bring none either. Linked statically, it makes the program ten
    times as large, and dependent on a C library as new as that of the machine that compiled it.
    """
    (stage / "bin").mkdir()
    options = ["-std=c++17", "-O2", "-pthread", "-s", "-Isrc/include", *(f"src/{unit}" for unit in units)]
    linking = ["-o", "bin/run", "-Llib", "-Wl,--no-as-needed", *(f"-l:{library}" for library in libraries)]
    paths = ["-Wl,-rpath,$ORIGIN/../lib", "-Wl,-rpath-link,lib"]
    command = [cross_compiler(triple) or "g++", *options, *linking, *paths]
    done = subprocess.run(command, cwd=stage, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        raise BackendError(
            f"{command[0]} cannot compile the program: {(said[0] if said else 'no reason given')}",
            way_out="it needs GCC 9 or newer, with the C++ library of the target",
        )
    return shlex.join(command)
