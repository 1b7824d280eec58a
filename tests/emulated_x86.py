"""Other x86-64 processors: this environment's own Python, run by qemu with the instructions of an older one.

::

    python tests/emulated_x86.py Haswell script.py …       # AVX2 and FMA, before VNNI
    python tests/emulated_x86.py Nehalem script.py …       # SSE4.2, before AVX

It needs ``qemu-user-static`` 7.2 or later, which has AVX2; it has no AVX-512. What is computed is what such a processor
computes, to the last digit; what time it takes says nothing. numpy starts in a second, ONNX Runtime in 4, OpenVINO in 7, TVM
in 20. On Nehalem OpenVINO ends of a signal, as its convolutions for SSE4.1 have an AVX instruction in them, and TVM's library
for ``x86_64_v3`` is refused. ``/proc/cpuinfo`` is that of the real machine: fxopt asks the C library, what does not is misled.
torch runs too, about ten times slower, and so does pytest:
``emulated_x86.py Haswell -m pytest -n0 tests/backends/test_onnx.py``. What a test starts
runs on the real machine. In qemu 7.2 ``grid_sample``, which draws the glyphs, may end of a signal:
``ATEN_CPU_CAPABILITY=default`` gives torch other kernels, and leaves those of the runtimes.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys

QEMU = "qemu-x86_64-static"
PROCESSORS = {"Haswell": "Haswell,-hle,-rtm,-invpcid,-tsc-deadline,-pcid,-x2apic", "Nehalem": "Nehalem"}
"""As qemu names them, without what it warns that it lacks."""


def cannot_emulate() -> str | None:
    """What is missing on this machine to run its Python as on another processor; None if nothing is."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"Python is for {platform.machine()} here, and not for x86-64"
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed: apt-get install qemu-user-static"
    return None


def python(processor: str) -> list[str]:
    """What a command starts with to run Python on that processor, in one thread."""
    return ["env", "OMP_NUM_THREADS=1", QEMU, "-cpu", PROCESSORS[processor], sys.executable]


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in PROCESSORS:
        sys.exit(__doc__)
    if reason := cannot_emulate():
        sys.exit(reason)
    command = [*python(sys.argv[1]), *sys.argv[2:]]
    os.execvp(command[0], command)
