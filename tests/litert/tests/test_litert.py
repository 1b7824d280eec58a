"""The contract of fxopt, and a network from its weights to LiteRT's interpreter."""

import pytest
import torch
from fxopt_litert.backend import CONVERTER, Litert

import fxopt
from fxopt.driver.build import build
from fxopt.driver.recipe import Recipe
from fxopt.errors import BackendError
from fxopt.testing import check_backend

needs_converter = pytest.mark.skipif(CONVERTER.missing() is not None, reason=str(CONVERTER.missing()))


def _saved(net, shape, place, **options):
    fxopt.save_program(fxopt.capture(net.eval(), (torch.randn(shape),), **options), place / "net.pt2")
    return str(place / "net.pt2")


@needs_converter
def test_contract():
    check_backend(Litert)


@needs_converter
def test_a_convolutional_net_gives_what_torch_gives_at_any_batch(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(8 * 64, 10),
    )  # fmt: skip
    build(Recipe(_saved(net, (2, 3, 16, 16), tmp_path), (), "litert"), tmp_path / "out", measure=False)
    artifact = fxopt.load(tmp_path / "out")
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(artifact(images.numpy())), net(images), rtol=1e-4, atol=1e-5)


def test_a_dynamic_height_is_refused_before_the_converter_starts(tmp_path):
    net = torch.nn.Conv2d(3, 8, 3)
    sizes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8, max=64)},)
    saved = _saved(net, (2, 3, 16, 16), tmp_path, dynamic=sizes)
    if CONVERTER.missing():
        pytest.skip("a backend that cannot build refuses for that")
    with pytest.raises(BackendError, match="dynamic, and a LiteRT file has fixed sizes"):
        build(Recipe(saved, (), "litert"), tmp_path / "out", measure=False)
