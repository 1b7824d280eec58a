"""The C++ reader of a bundle, compiled with sanitizers, on thousands of damaged files: no byte outside what it holds is read."""

from __future__ import annotations

import io
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fxopt.backends.runner as runner

SOURCE = Path(__file__).parents[1] / "cases" / "read_files.cc"
INTERFACE = b"""fxopt-interface 1
target board, x86_64-linux-gnu with avx2
dim batch 1 any
dim length 2 64
input x float32 batch 3 length
example 1 3 8
input y int64 batch
example 1
output out[0] float32 1 10
option threads 4
"""
WORDS = [
    b"any",
    b"-1",
    b"99999999999999999999",
    b"9223372036854775807",
    b"0",
    b"'",
    b"(",
    b")",
    b",",
    b"\n",
    b"\0",
    b"\xff",
    b"example 1\n",
    b"input",
    b"{}",
    b":",
]


def _damaged(good: bytes, draw: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(4):
            case 0:
                data[at : at + draw.randint(1, 20)] = b""
            case 1:
                data[at:at] = draw.choice(WORDS)
            case 2 if at < len(data):
                data[at] = draw.randrange(256)
            case _:
                other = draw.randrange(len(data) + 1)
                data[at:at] = data[other : other + draw.randint(1, 40)]
    return bytes(data)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="compiled by g++")
def test_no_file_makes_the_reader_read_outside_what_it_holds(tmp_path):
    program = tmp_path / "read"
    flags = ["-std=c++17", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    folder = str(Path(runner.__file__).parent)
    subprocess.run(["g++", *flags, "-I", folder, str(SOURCE), "-o", str(program)], check=True)
    draw, arrays = random.Random(0), io.BytesIO()
    np.save(arrays, np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    for name, good in (("a.txt", INTERFACE), ("a.npy", arrays.getvalue())):
        files = [tmp_path / f"{i}{name[1:]}" for i in range(3000)]
        for file in files:
            file.write_bytes(_damaged(good, draw))
        (tmp_path / name).write_bytes(good)
        done = subprocess.run([program, tmp_path / name, *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        read = re.match(r"(\d+) of 3001", done.stdout)
        assert read, done.stdout
        assert 0 < int(read[1]) < 3001, "some are as good as before, and some are refused"
