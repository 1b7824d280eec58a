"""Norms and streams of transformers as they are built elsewhere; docs/theory/streams-by-model.md is the table of all."""

from pathlib import Path

import pytest
import torch
from cases import transformer_models as models

from fxopt.numerics.float64 import to_float64

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = Path(__file__).parents[3] / "docs" / "theory" / "streams-by-model.md"
QUICK = ["vit_torchvision", "llama"]
"""One with layer norms, and one with RMS norms that are written out."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in models.MODELS])
def test_models_compute_what_they_did_and_the_page_says_so(name):
    program, row = models.turned(models.captured(name))
    module, inputs = models.MODELS[name]()
    wide = [v.double() if v.is_floating_point() else v for v in inputs]
    with torch.no_grad():  # the model's own code in float64, beside weights that were stored in float32
        want, got = module.double()(*wide), to_float64(program)(*wide)
    assert float((want - got).abs().max()) < 1e-5 * float(want.abs().max())
    assert row.turned > 0
    line, reasons = models.lines_of(name, row)
    page = PAGE.read_text().splitlines()
    assert line in page
    assert [note for note in page if note.startswith(f"- `{name}`")] == reasons
