"""Devices that are described here, one TOML file each: ``fxopt targets`` lists them, ``-t raspberry_pi_4`` names one."""

from __future__ import annotations

from pathlib import Path

from fxopt.target import Target, read_target


def __getattr__(name: str) -> Target:
    """The target of the file of that name."""
    path = Path(__file__).with_name(f"{name}.toml")
    if name.startswith("_") or not path.is_file():
        raise AttributeError(name)
    return read_target(path)
