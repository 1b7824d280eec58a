"""An aarch64 device that is a program on this machine: Debian's arm64 libraries, aarch64 wheels, and qemu.

::

    python tests/emulated_device.py                                   # makes it, and says how to run something there
    python tests/emulated_device.py rpc://127.0.0.1:9090              # and serves, as `fxopt serve` does on a board
    python tests/emulated_device.py tracker://127.0.0.1:9190/pi --cpu cortex-a72

It needs ``qemu-user-static``, ``apt-get`` and the package registries, and no rights: nothing of this machine is changed. Made
once, it stays in ``build/emulated-aarch64``; the fxopt of the checkout is put beside it, in a folder named by its sources, as
another process may be running what is there. What it computes is what a board computes; what time it takes says nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

CHECKOUT = Path(__file__).parent.parent
ROOT = CHECKOUT / "build" / "emulated-aarch64"
QEMU = "qemu-aarch64-static"
PACKAGES = ("python3.11", "libstdc++6")
WHEELS = ("apache-tvm", "apache-tvm-ffi", "numpy", "pydantic", "rich", "typer")
ONNXRUNTIME = "onnxruntime==1.23.2"  # newer ones end of a signal in the emulator of Debian 12, at a float16 instruction
ENDINGS = ("py", "toml", "cc", "hpp")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def cannot_emulate() -> str | None:
    """What is missing on this machine to make the device; None if nothing is."""
    for program, package in ((QEMU, "qemu-user-static"), ("apt-get", "apt"), ("dpkg", "dpkg")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    return None


def make(root: Path = ROOT) -> Path:
    """Make the device's file system, or find it made. Returns its folder."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_suffix(".lock")):
        if not root.exists():
            with tempfile.TemporaryDirectory(prefix="emulated-", dir=root.parent) as scratch:
                made = Path(scratch) / "root"
                _unpack_debian(made, Path(scratch))
                _install(made / "site", ["-c", str(CHECKOUT / "constraints.txt"), *WHEELS])
                _install(made / "site", [ONNXRUNTIME])
                made.rename(root)
    return root


def _fxopt(root: Path) -> Path:
    """The folder where the fxopt of this checkout is installed for the device, one for each state of its sources."""
    tops = ("fxopt", "passes", "backends", "models")
    names = ("pyproject.toml", *(f"{top}/**/*.{end}" for top in tops for end in ENDINGS))
    sources = sorted({path for name in names for path in CHECKOUT.glob(name)})
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources))
    folder = root.with_name(f"{root.name}-fxopt-{digest.hexdigest()[:12]}")
    with FileLock(root.with_suffix(".lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix="fxopt-", dir=root.parent) as scratch:
                _install(Path(scratch) / "site", ["--no-deps", str(CHECKOUT)], here=True)
                (Path(scratch) / "site").rename(folder)
    return folder


def _unpack_debian(root: Path, scratch: Path) -> None:
    """Unpack packages with all that they depend on; apt works in a folder of its own."""
    (scratch / "lists" / "partial").mkdir(parents=True)
    (scratch / "debs").mkdir()
    options = ["APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Sandbox::User="]
    options += [f"Dir::State::Lists={scratch}/lists", f"Dir::Cache={scratch}"]
    apt = [word for option in options for word in ("-o", option)]
    subprocess.run(["apt-get", *apt, "-qq", "update"], check=True)
    depends = ["--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"]
    command = ["apt-cache", *apt, "depends", "--recurse", *depends, *PACKAGES]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    names = sorted({line for line in listed if line[:1].isalnum()})
    subprocess.run(["apt-get", *apt, "-qq", "download", *names], check=True, cwd=scratch / "debs")
    for package in sorted((scratch / "debs").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)


def _install(folder: Path, what: Sequence[str], *, here: bool = False) -> None:
    """Install wheels of the device's platform, or with ``here`` what is pure Python, for the device's interpreter."""
    platform = [] if here else ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]
    platform += [] if here else [word for name in PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "--no-warn-conflicts"]
    subprocess.run([*pip, *platform, *what], check=True)


def python(root: Path, cpu: str) -> Path:
    """A program that runs the device's Python, and is what it starts processes with."""
    path = root / f"python-{cpu}"
    text = f"""#!/bin/sh
export PYTHONPATH={_fxopt(root)}:{root}/site
exec {QEMU} -L {root} -cpu {cpu} {root}/usr/bin/python3.11 "$@"
"""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        path.chmod(0o755)
    return path


class EmulatedDevice:
    """The device, switched on: ``fxopt serve ADDRESS`` runs there. A context manager; ``kill`` is the loss of its power."""

    def __init__(self, address: str, *, root: Path = ROOT, cpu: str = "cortex-a76", log: Path | None = None) -> None:
        self.address, self.python = address, python(root, cpu)
        main = f"import sys; sys.executable = {str(self.python)!r}; from fxopt.cli.main import main; main()"
        self.log = log or root.with_suffix(".log")
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [self.python, "-c", main, "serve", address],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=root,
            )  # fmt: skip

    def wait(self, seconds: float = 120.0) -> EmulatedDevice:
        """Wait until it serves."""
        end = time.monotonic() + seconds
        while "serving at" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the emulated device does not serve:\n{self.log.read_text()}")
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """End all of its processes at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> EmulatedDevice:
        return self.wait()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", help="to serve at")
    parser.add_argument("--cpu", default="cortex-a76", help="as qemu names it (%(default)s)")
    options = parser.parse_args()
    if reason := cannot_emulate():
        sys.exit(reason)
    root = make()
    if options.address is None:
        print(f"made; {python(root, options.cpu)} is its Python")
        return
    log = root.with_suffix(".log")
    with EmulatedDevice(options.address, root=root, cpu=options.cpu, log=log) as device:
        print(log.read_text())
        device.process.wait()


if __name__ == "__main__":
    main()
