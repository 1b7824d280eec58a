"""The sha256 of every file that a build writes, by model, recipe and backend: to hold two checkouts against each other.

::

    python tests/bench/artifact_bytes.py --fxopt OLD/.venv/bin/fxopt > old.txt
    python tests/bench/artifact_bytes.py > new.txt && diff old.txt new.txt
    python tests/bench/artifact_bytes.py --against OLD/.venv/bin/fxopt --backends onnx --models digits small_vit

Both must run on one machine with the same versions of torch and the runtimes. The programs are those of digits, glyphs and
resnet18, in float and in int8, for every backend; what a build of the same tree writes twice is the same already.

With ``--against`` each is built by both, and a line says of each file: equal; equal but for names, of an ONNX model whose
operators, attributes, weights and interface are the same, so that only values and nodes are called otherwise; or differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from same_graph import unnamed

MODELS = ("digits", "glyphs", "torchvision:resnet18")
RECIPES = {"float": "fold_batch_norm, clean_up", "int8": "fold_batch_norm, quantize"}
BACKENDS = ("eager", "onnx", "openvino", "tvm(threads=1)")


def main() -> None:
    """Print a line for each file of each artifact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(sys.executable).with_name("fxopt")
    parser.add_argument("--fxopt", type=Path, default=here, help="the command to build with (%(default)s)")
    parser.add_argument("--against", type=Path, help="another one, to compare with")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    options = parser.parse_args()
    for model in options.models:
        for kind, passes in RECIPES.items():
            for backend in options.backends:
                with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
                    out, other = Path(folder) / "out", Path(folder) / "other"
                    lines = built(options.fxopt, model, passes, backend, out)
                    if options.against:
                        lines = compared(lines, built(options.against, model, passes, backend, other), out, other)
                for line, said in sorted(lines.items()):
                    print(f"{model} {kind} {backend} {line} {said}", flush=True)


def built(fxopt: Path, model: str, passes: str, backend: str, out: Path) -> dict[str, str]:
    """Digests of the files of one artifact, by name; the reason where the backend refuses."""
    command = [fxopt, "build", model, "-p", passes, "-b", backend, "--out", out, "--no-measure"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {f"exit code {done.returncode}:": done.stderr.strip().splitlines()[-1]}
    files: dict[str, str] = json.loads((out / "manifest.json").read_text())["files"]
    return files


def compared(ours: dict[str, str], theirs: dict[str, str], out: Path, other: Path) -> dict[str, str]:
    """What is said of each file of either artifact."""
    said = {}
    for name in ours | theirs:
        if ours.get(name) == theirs.get(name):
            said[name] = "equal"
        elif (
            name in ours and name in theirs and name.endswith(".onnx") and unnamed(out / name) == unnamed(other / name)
        ):
            said[name] = "equal but for names"
        else:
            said[name] = "differs"
    return said


if __name__ == "__main__":
    main()
