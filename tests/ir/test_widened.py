"""Weights in float64 that are held in float32, against tensors that torch cast to float64."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch

from fxopt.ir import held_weight
from fxopt.ir.widened import Widened

Function = Callable[[torch.Tensor], torch.Tensor]

INDEX = torch.tensor([4, 0, 2])

READ: dict[str, Function] = {
    "linear": lambda w: torch.ops.aten.linear.default(torch.arange(8.0, dtype=torch.float64).reshape(2, 4), w),
    "method": lambda w: w.sum(0),
    "operator": lambda w: 2 * w - 1,
    "in a list": lambda w: torch.cat([w, w], 1),
    "transposed": lambda w: w.T @ w,
    "cast": lambda w: w.float().double(),
    "numpy": lambda w: torch.from_numpy(w.numpy().copy()),
    "plain numbers": lambda w: torch.tensor(w.tolist(), dtype=torch.float64),
    "expanded": lambda w: w[:1].expand(5, 4),
    "expanded by a dim": lambda w: w.expand(3, 6, 4) @ w.T,
    "picked": lambda w: w.index_select(0, INDEX).index_select(1, INDEX[1:]).contiguous(),
    "views": lambda w: w.reshape(3, 8)[1:].view(-1).flatten(),
    "parts": lambda w: torch.stack([part.sum() for part in w.split(2)]),
    "masked": lambda w: w[w[:, 0] > 0],
    "of a parameter": lambda w: torch.nn.functional.relu(torch.nn.Parameter(w, False)),
}

WRITTEN: dict[str, Function] = {
    "whole": lambda v: v.mul_(3),
    "at an index": lambda v: v.__setitem__(0, 7.0),
    "through a view": lambda v: v.view(-1)[2:5].zero_(),
    "through a transpose": lambda v: v.T.add_(1),
    "through a diagonal": lambda v: v.diagonal().fill_(5),
    "out": lambda v: torch.neg(v, out=v),
    "numpy": lambda v: v.numpy().sort(),
}
"""Writes into a result that belongs to nobody else."""


@pytest.fixture(params=[0, held_weight.KEPT_BYTES], ids=["none kept", "kept"])
def weight(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """A float32 weight; what is widened is forgotten at once, or kept."""
    monkeypatch.setattr(held_weight, "KEPT_BYTES", request.param)
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("read", READ.values(), ids=READ)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_what_reads_it_gets_the_numbers_of_a_cast_weight(
    weight: torch.Tensor, dtype: torch.dtype, read: Function
) -> None:
    plain, held = weight.to(dtype).to(held_weight.WIDE[dtype]), Widened(weight.to(dtype))
    try:
        want = read(plain)
    except (RuntimeError, TypeError) as error:  # such as relu of complex numbers
        with pytest.raises(type(error)):
            read(held)
        return
    got = read(held)
    assert got.dtype == want.dtype
    assert got.stride() == want.stride()
    assert bool((got == want).all())


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("pick", [lambda w: w.index_select(0, INDEX), lambda w: w[INDEX], lambda w: w.clone()])
def test_a_result_of_ones_own_is_written_into_as_any(weight: torch.Tensor, write: Function, pick: Function) -> None:
    want, got = pick(weight.double()), pick(Widened(weight))
    write(want)
    write(got)
    gc.collect(0)
    assert bool((got == want).all())
    assert torch.equal(got.index_select(1, INDEX[1:]), want.index_select(1, INDEX[1:]))


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "numpy"])
def test_a_write_into_a_weight_shows_in_its_version_and_leaves_the_memory(weight: torch.Tensor, name: str) -> None:
    before, held = weight.clone(), Widened(weight)
    alike = torch.nn.Parameter(held, False)  # as copies of a program have it
    WRITTEN[name](held)
    assert held._version > 0
    assert alike._version == held._version
    assert torch.equal(weight, before)


def test_it_takes_no_memory_beyond_that_of_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide tensor that lived as long as its weight would be the whole program in float64."""
    monkeypatch.setattr(held_weight, "KEPT_BYTES", 3 * 8 * 1000)
    weights = [Widened(torch.randn(1000)) for _ in range(10)]
    for weight in weights:
        weight.sum()
    weights[7].sum()
    weights[0].sum()
    assert [i for i, weight in enumerate(weights) if weight._held in held_weight.RECENT] == [0, 7, 9]
    assert all(weight.data_ptr() == weight._held.narrow.data_ptr() for weight in weights)
    del weights, weight
    assert not len(held_weight.RECENT)


def test_a_copy_has_memory_of_its_own_and_stays_a_parameter(weight: torch.Tensor) -> None:
    held = torch.nn.Parameter(Widened(weight), False)
    other = copy.deepcopy(held)
    weight.zero_()
    assert isinstance(other, torch.nn.Parameter)
    assert bool(other.any())
    assert other.data_ptr() != held.data_ptr()


def test_equal_weights_are_equal_whatever_holds_them(weight: torch.Tensor) -> None:
    half = weight.bfloat16()
    assert torch.equal(Widened(weight), Widened(weight.clone()))
    assert torch.equal(Widened(weight), weight.double())
    assert torch.equal(Widened(half), Widened(half.float()))
    assert not torch.equal(Widened(half), Widened(weight))
