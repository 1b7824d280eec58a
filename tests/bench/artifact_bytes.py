"""The sha256 of every file that a build writes, by model, recipe and backend: to hold two checkouts against each other.

::

    python tests/bench/artifact_bytes.py --fxopt OLD/.venv/bin/fxopt > old.txt
    python tests/bench/artifact_bytes.py > new.txt && diff old.txt new.txt

Both must run on one machine with the same versions of torch and the runtimes. The programs are those of digits, glyphs and
resnet18, in float and in int8, for every backend; what a build of the same tree writes twice is the same already.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = ("digits", "glyphs", "torchvision:resnet18")
RECIPES = {"float": "fold_batch_norm, clean_up", "int8": "fold_batch_norm, quantize"}
BACKENDS = ("eager", "onnx", "openvino", "tvm(threads=1)")


def main() -> None:
    """Print a line for each file of each artifact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(sys.executable).with_name("fxopt")
    parser.add_argument("--fxopt", type=Path, default=here, help="the command to build with (%(default)s)")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    options = parser.parse_args()
    for model in options.models:
        for kind, passes in RECIPES.items():
            for backend in options.backends:
                for line in built(options.fxopt, model, passes, backend):
                    print(f"{model} {kind} {backend} {line}", flush=True)


def built(fxopt: Path, model: str, passes: str, backend: str) -> list[str]:
    """Names and digests of the files of one artifact; the reason where the backend refuses."""
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        out = Path(folder) / "out"
        command = [fxopt, "build", model, "-p", passes, "-b", backend, "--out", out, "--no-measure"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return [f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1]}"]
        files = json.loads((out / "manifest.json").read_text())["files"]
        return [f"{name} {digest}" for name, digest in sorted(files.items())]


if __name__ == "__main__":
    main()
