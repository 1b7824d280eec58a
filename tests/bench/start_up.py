"""What it takes to start: ``import fxopt`` and the listing commands, beside a bare interpreter and ``import torch``.

::

    python tests/bench/start_up.py --rounds 11

Each is a process of its own, run in turn; the median of its processor time over rounds is shown, which other load hardly
changes, and what it is above the bare interpreter.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fxopt.runtime.timing import Quartiles

FXOPT = str(Path(sys.executable).with_name("fxopt"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import fxopt": [sys.executable, "-c", "import fxopt"],
    "import fxopt; fxopt.load": [sys.executable, "-c", "import fxopt; fxopt.load"],
    "fxopt passes": [FXOPT, "passes"],
    "fxopt backends": [FXOPT, "backends"],
    "fxopt targets": [FXOPT, "targets"],
    "fxopt explain quantize": [FXOPT, "explain", "quantize"],
    "fxopt --help": [FXOPT, "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def _children_seconds() -> float:
    """Processor time of the processes that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for i in range(rounds + 1):
        for name, command in COMMANDS.items():
            before = _children_seconds()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if i:  # the first round fills the disk's cache
                seconds[name].append(_children_seconds() - before)
    bare = Quartiles.of(seconds["python -c pass"]).median
    table = Table(title=f"{rounds} rounds")
    for column in ("", "CPU ms (quartiles)", "above bare Python, ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in seconds.items():
        ms = Quartiles.of([value * 1000 for value in values])
        table.add_row(name, str(ms), f"{ms.median - bare * 1000:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
