"""The command that says what is there on this machine, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from fxopt.cli.app import AUTHORS, Json, Load, app, load_files
from fxopt.errors import BudgetError

_PROGRAMS = {
    "g++": ("compiles the C++ program of bundles, and links TVM's libraries", "apt-get install g++"),
    "aarch64-linux-gnu-g++": ("links for 64-bit ARM boards", "apt-get install g++-aarch64-linux-gnu"),
    "riscv64-linux-gnu-g++": ("links for 64-bit RISC-V boards", "apt-get install g++-riscv64-linux-gnu"),
    "dot": ("draws `fxopt graph` as SVG, PDF and PNG", "apt-get install graphviz"),
    "nvidia-smi": ("tells of NVIDIA GPUs", ""),
}
"""Programs that some commands need: for what, and how a Debian installs them."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: ``state`` is ok, missing or broken; ``way_out`` is a command where one mends it."""

    about: str
    what: str
    state: str
    detail: str = ""
    way_out: str = ""


@app.command(rich_help_panel=AUTHORS)
def doctor(load: Load = None, as_json: Json = False) -> None:
    """Say what is there: versions, processor, kernels, compilers; what is missing, and the command that mends it.

    Exit code 1 where something that is registered cannot be loaded.
    """
    load_files(load)
    found = [*_machine(), *_backends(), *_extras(), *_programs(), *_registered(), _cache()]
    broken = [each for each in found if each.state == "broken"]
    if as_json:
        print(json.dumps([asdict(each) for each in found]))
    else:
        _show(found)
    if broken:
        raise BudgetError(f"broken: {', '.join(each.what for each in broken)}")


def _show(found: list[Finding]) -> None:
    from rich.console import Console

    from fxopt.cli.layout import say, styled

    console = Console()
    counts = {state: sum(each.state == state for each in found) for state in ("ok", "missing", "broken")}
    say(console, ", ".join(f"{count} {state}" for state, count in counts.items()), style="bold")
    about = None
    for each in found:
        if each.about != about:
            about = each.about
            say(console, about, style="bold")
        colour = {"ok": "green", "missing": "yellow", "broken": "red"}[each.state]
        line = styled((f"{each.state:<8}", colour), f"{each.what}  {each.detail}".strip())
        say(console, line, indent=2, hang=10)
        if each.way_out:
            say(console, each.way_out, indent=10, hang=12, style="bold")


def _machine() -> list[Finding]:
    from fxopt.target import find_target

    host = find_target("host")
    memory = f", {host.memory / 1e9:.1f} GB" if host.memory else ""
    pairs = "integers are added in 16 bits, so int8 weights are bounded: see docs/theory/quantization-placement.md"
    kernels = pairs if host.int8_saturates else "int8 products are added in 32 bits"
    fxopt = importlib.metadata.version("fxopt")
    return [
        Finding("this machine", "fxopt", "ok", f"{fxopt}, Python {platform.python_version()}, {platform.platform()}"),
        Finding("this machine", "processor", "ok", f"{host.triple}, {host.cpu}, {host.cores} cores{memory}"),
        Finding("this machine", "features", "ok", f"{' '.join(sorted(host.features)) or 'none'}: {kernels}"),
    ]


def _backends() -> list[Finding]:
    from fxopt import registry
    from fxopt.backend import find_backend
    from fxopt.errors import FxoptError
    from fxopt.target import find_target

    host, found = find_target("host"), []
    for name in registry.names("backend"):
        try:
            reason, way_out = find_backend(name).cannot_build(host), ""
        except FxoptError as error:
            reason, way_out = error.what, error.way_out or ""
        state = "ok" if reason is None else "missing"
        found.append(Finding("backends, for this machine", name, state, reason or "builds", way_out))
    return found


def _extras() -> list[Finding]:
    """The extras of the distribution: which packages of each are not there."""
    needs = _requirements()
    found = []
    for extra, names in needs.items():
        if extra in ("test", "all", "docs", "wild", "peers"):
            continue
        absent = [name for name in names if not _version(name)]
        versions = ", ".join(f"{name} {_version(name)}" for name in names if _version(name))
        way_out = f"pip install 'fxopt[{extra}]'" if absent else ""
        detail = f"without {', '.join(absent)}" if absent else versions
        found.append(Finding("extras", extra, "missing" if absent else "ok", detail, way_out))
    return found


def _requirements() -> dict[str, list[str]]:
    """Packages by extra, as the metadata of the distribution has them; an extra of another's brings that one's."""
    direct: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("fxopt") or ():
        said = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?.*extra == ['\"]([\w-]+)['\"]", line)
        if said is not None:
            name, extras, extra = said.groups()
            direct.setdefault(extra, []).extend(
                [f"[{e}]" for e in extras.split(",")] if name == "fxopt" and extras else [name]
            )

    def whole(extra: str, above: tuple[str, ...] = ()) -> list[str]:
        found = []
        for name in direct.get(extra, ()):
            inner = name.strip("[]")
            if inner != name and inner not in above:
                found += whole(inner, (*above, extra))
            elif inner == name:
                found.append(name)
        return list(dict.fromkeys(found))

    return {extra: whole(extra) for extra in direct}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _programs() -> list[Finding]:
    found = []
    for name, (use, way_out) in _PROGRAMS.items():
        path = shutil.which(name)
        found.append(Finding("programs", name, "ok" if path else "missing", path or use, "" if path else way_out))
    return found


def _registered() -> list[Finding]:
    """What other packages register, loaded; fxopt's own is held by its tests."""
    from fxopt import registry
    from fxopt.errors import FxoptError

    found = []
    for kind in registry.GROUPS:
        for entry in registry.entries(kind):
            if entry.origin == "fxopt":
                continue
            try:
                registry.get(kind, entry.name)
                found.append(Finding("plugins", f"{kind} {entry.name}", "ok", f"of {entry.origin}"))
            except FxoptError as error:
                found.append(Finding("plugins", f"{kind} {entry.name}", "broken", error.what, error.way_out or ""))
    return found


def _cache() -> Finding:
    from fxopt.driver.default_cache import result_store

    root = Path(result_store().root)
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    if os.access(nearest, os.W_OK):
        return Finding("cache", str(root), "ok", "can be written")
    return Finding(
        "cache", str(root), "missing", "cannot be written: nothing is kept", "export FXOPT_CACHE=/a/folder/of/yours"
    )
