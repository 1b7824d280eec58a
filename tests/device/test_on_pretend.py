"""Runs on_pretend.py in a process of its own: autograd takes no device after its first backward pass."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_all_that_runs_graphs_on_data_runs_on_a_device():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "--durations=0",
        "on_pretend.py",
    ]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
