"""The C++ compiler for a target, by its triple."""

from __future__ import annotations

import shutil

from fxopt.target.detect import host


def cross_compiler(triple: str) -> str | None:
    """The compiler for another architecture, under the name that distributions give it; None where it is this machine's."""
    return None if triple.split("-")[0] == host().architecture else f"{triple}-g++"


def missing_compiler(triple: str) -> str | None:
    """That the compiler for a triple is not installed, with the package that has it; None if it is."""
    name = cross_compiler(triple)
    if shutil.which(name or "g++"):
        return None
    if name is None:
        return "g++ is not installed; on Debian: apt install g++"
    debian = f"; on Debian: apt install g++-{triple.replace('_', '-')}"
    return f"{name} is not installed" + (debian if triple.endswith("linux-gnu") else "")
