"""Weights that ship are as good as their metadata say, and were made by the command and epochs that the code names."""

import pytest
from safetensors import safe_open

from fxopt.models import pitch, shape_masks, train
from fxopt.workload import find_workload

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.mark.parametrize("module", [pitch, shape_masks], ids=lambda module: module.__name__.rpartition(".")[2])
def test_shipped_weights_are_as_good_as_their_metadata_say(module):
    name = module.__name__.rpartition(".")[2]
    with safe_open(module.WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert metadata["command"].startswith(f"python -m fxopt.models.train {name} ")
    assert int(metadata["epochs"]) == train.TRAININGS[name].epochs
    workload = find_workload(name)
    found = workload.data.evaluate(workload.capture(), "validation")
    assert found == pytest.approx(float(metadata["validation"]), abs=2e-3), "up to rounding"
    size = sum(p.numel() for p in workload.model().parameters()) / 1e6
    assert f"{size:.1f} M parameters" in getattr(module, name).__doc__
