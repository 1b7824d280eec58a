"""A script that runs artifacts in any Python, of another processor too: ``run_artifacts.py PLACE FOLDER…``.

In each folder ``artifact`` is loaded and run on the arrays of ``inputs.npz``; flat outputs go to ``artifact-PLACE.npz``. So is
``exposed``, where there is one. It needs what the artifact needs, and no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import fxopt


def main() -> None:
    place, *folders = sys.argv[1:]
    for folder in map(Path, folders):
        with np.load(folder / "inputs.npz") as inputs:
            arrays = [inputs[name] for name in inputs.files]
        for name in ("artifact", "exposed"):
            if (folder / name).exists():
                loaded = fxopt.load(folder / name)
                np.savez(folder / f"{name}-{place}.npz", *loaded.runner(loaded.arrays(*arrays)))


if __name__ == "__main__":
    main()
