"""Weights that are mapped from a file: captured without memory of their own, and yet independent."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import fxopt
from fxopt.ir.mapped_weights import MappedFiles

Load = Callable[[Path], dict[str, torch.Tensor]]


def _net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(300, 700), torch.nn.ReLU(), torch.nn.Linear(700, 5))


def _safetensors(folder: Path) -> dict[str, torch.Tensor]:
    safetensors.torch.save_file(_net().state_dict(), folder / "net.safetensors")
    return safetensors.torch.load_file(folder / "net.safetensors")


def _torch(folder: Path) -> dict[str, torch.Tensor]:
    torch.save(_net().state_dict(), folder / "net.pt")
    return torch.load(folder / "net.pt", mmap=True)  # type: ignore[no-any-return]


def _mapped(folder: Path, load: Load) -> torch.nn.Module:
    """A net without memory for weights, which then gets those of the file."""
    with torch.device("meta"):
        net = _net()
    net.load_state_dict(load(folder), assign=True)
    return net


def _file_of(tensor: torch.Tensor) -> str:
    """The file that the kernel says an address is of."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(text, 16) for text in line.split(maxsplit=1)[0].split("-"))
        if low <= tensor.data_ptr() < high:
            return line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
    return ""


pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")


@pytest.mark.parametrize("load", [_safetensors, _torch])
def test_a_captured_weight_is_of_the_file_and_computes_the_same(tmp_path: Path, load: Load) -> None:
    x = torch.randn(2, 300)
    program = fxopt.capture(_mapped(tmp_path, load), (x,))
    assert torch.equal(program(x), _net().eval()(x))
    for name, tensor in program.tensors().items():
        assert (Path(_file_of(tensor)).parent == tmp_path) == (tensor.nbytes >= mmap.PAGESIZE), name


def test_training_the_model_leaves_the_program_and_the_file(tmp_path: Path) -> None:
    """A program that shared its pages with the model would change with it."""
    net = _mapped(tmp_path, _safetensors)
    program = fxopt.capture(net, (torch.randn(2, 300),))
    content = (tmp_path / "net.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
        own = program.tensors()["0.weight"]
        assert torch.equal(own, _net()[0].weight)
        own.zero_()
    assert torch.equal(net[0].weight, 2 * _net()[0].weight)
    assert (tmp_path / "net.safetensors").read_bytes() == content


def test_a_weight_that_was_written_into_is_copied_as_it_is(tmp_path: Path) -> None:
    """Its page differs from the file; mapped again, the program would have the old numbers."""
    net = _mapped(tmp_path, _safetensors)
    with torch.no_grad():
        net[0].weight[3, 3] = 7.0
    program = fxopt.capture(net, (torch.randn(2, 300),))
    assert program.tensors()["0.weight"][3, 3] == 7.0
    assert torch.equal(program.tensors()["2.weight"], _net()[2].weight)


def test_a_file_that_is_gone_or_another_is_not_mapped(tmp_path: Path) -> None:
    weights = _safetensors(tmp_path)
    other = tmp_path / "other"
    other.write_bytes(b"\0" * (tmp_path / "net.safetensors").stat().st_size)
    os.replace(other, tmp_path / "net.safetensors")
    assert MappedFiles().copy(weights["0.weight"]) is None
    (tmp_path / "net.safetensors").unlink()
    assert MappedFiles().copy(weights["0.weight"]) is None


def test_memory_of_no_file_and_parts_of_a_weight_are_not_mapped(tmp_path: Path) -> None:
    weight = _safetensors(tmp_path)["0.weight"]
    files = MappedFiles()
    assert files.copy(torch.ones(10)) is None
    assert files.copy(weight[:, ::2]) is None
    turned = files.copy(weight.T)
    assert turned is not None
    assert torch.equal(turned, weight.T)
    assert turned.stride() == weight.T.stride()
