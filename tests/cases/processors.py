"""int8 artifacts built here for processors before VNNI, and how far from the quantized program they are on several."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import emulated_device
import emulated_x86
import numpy as np
import torch
from cases.int8_nets import Int8Net
from torch.utils import _pytree as pytree

from fxopt import Pipeline, Program
from fxopt.backend import Backend
from fxopt.driver.int8_check import check_values
from fxopt.driver.intermediate_values import Exposed
from fxopt.driver.lower import lower
from fxopt.numerics.error_metrics import sqnr
from fxopt.numerics.float64 import to_float64
from fxopt.target import Target, find_target

OLD_X86 = find_target("x86_64_v3")
"""Processors with AVX2, and without VNNI."""
GOOD_DB = 30.0
ROOM_DB = 6.0
ERROR = 1e-3
"""The relative difference that an output in float may have where all that it is computed from is the same."""
_SCRIPT = Path(__file__).with_name("run_artifacts.py")


@dataclass(frozen=True)
class Place:
    """A processor that artifacts are run on: why it cannot be emulated here, or None, and what starts Python there."""

    name: str
    missing: Callable[[], str | None]
    python: Callable[[], Sequence[str | Path]]


PLACES = {
    place.name: place
    for place in (
        Place("native", lambda: None, lambda: [sys.executable]),
        *(
            Place(name, emulated_x86.cannot_emulate, lambda name=name: emulated_x86.python(name))
            for name in emulated_x86.PROCESSORS
        ),
        Place(
            "aarch64",
            emulated_device.cannot_emulate,
            lambda: [emulated_device.python(emulated_device.make(), "cortex-a76")],
        ),
    )
}


@dataclass(frozen=True)
class Built:
    """A quantized network in a folder: its artifact, the twin that gives codes too if there is one, and the inputs.

    ``want`` is what the quantized program gives in torch. ``floor_db`` is how near torch's other kernels come to that, those
    without oneDNN, which add in another order: a number in the middle between two codes falls to either side.
    """

    net: Int8Net
    folder: Path
    program: Program
    inputs: tuple[torch.Tensor, ...]
    want: list[torch.Tensor]
    floor_db: float
    exposed: Exposed | None

    @property
    def least_db(self) -> float:
        """What an artifact whose kernels are exact gives at least."""
        return min(GOOD_DB, self.floor_db - ROOM_DB)

    def got_db(self, place: str) -> float:
        """SQNR in dB of what the artifact gave there to what the quantized program gives in torch."""
        return sqnr(self.want, [torch.from_numpy(array) for array in self._arrays("artifact", place)])

    def off(self, place: str) -> list[str]:
        """Values that were computed otherwise there, each on its own inputs, and how; none where there is no twin."""
        if self.exposed is None:
            return []
        outputs, codes = self.exposed.named(self._arrays("exposed", place))
        checks = check_values(self.program, to_float64(self.program), list(self.inputs), outputs, codes)
        return [f"{self.program.describe(check.node)}: {check}" for check in checks if check.wrong(ERROR)]

    def _arrays(self, name: str, place: str) -> list[np.ndarray]:
        with np.load(self.folder / f"{name}-{place}.npz") as outputs:
            return [outputs[key] for key in outputs.files]


def build_quantized(net: Int8Net, backend: Backend, folder: Path, target: Target = OLD_X86) -> Built:
    """Quantize for the kernels of a target, and build, into ``folder``.

    A twin is built where it is the artifact's own file with more outputs.
    """
    workload = net.workload()
    where = {"workload": workload, "target": target, "backend": backend, "watchers": ()}
    quantized = Pipeline.parse(net.passes).run(workload.capture(), **where).program
    (folder / "artifact").mkdir(parents=True)
    legal, artifact = lower(quantized, backend, target, folder / "artifact", workload=workload)
    inputs, _ = next(workload.need_data("the table").batches("test", batch_size=net.batch))
    np.savez(folder / "inputs.npz", *(value.numpy() for value in inputs))
    with torch.no_grad():
        want = pytree.tree_leaves(legal(*inputs))
        with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
            other = pytree.tree_leaves(legal(*inputs))
    exposed = None
    if type(backend).expose is not Backend.expose:
        exposed = Exposed(legal, backend, target, artifact, folder / "exposed")
    return Built(net, folder, legal, inputs, want, sqnr(want, other), exposed)


def run_on(place: Place, built: Sequence[Built]) -> None:
    """Run the artifacts there, in one process. Raises RuntimeError with what it printed where that fails."""
    command = [*place.python(), _SCRIPT, place.name, *(one.folder for one in built)]
    # numpy's OpenBLAS may take kernels with AVX for an emulated processor without, and is not what is tested
    env = os.environ | ({"OPENBLAS_CORETYPE": place.name} if place.name == "Nehalem" else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"on {place.name}: exit code {done.returncode}\n{done.stderr}")
