"""Calibration: each observer's range against its definition on all numbers kept, and what calibration says of bad data."""

from __future__ import annotations

import io
import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Workload, capture
from fxopt.passes.quant.calibrate import calibrate
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.observers import OBSERVERS, Affine, Format
from fxopt.passes.quant.observers.entropy import divergence
from fxopt.passes.quant.observers.histogram import Histogram
from fxopt.passes.quant.observers.search import voters
from fxopt.passes.quant.observers.squared_error import squared_error
from fxopt.passes.quant.placement import Placement
from fxopt.support.progress import shown_on
from fxopt.testing import small_workload

finite = st.floats(-1e4, 1e4, width=32)
EVERY = list(OBSERVERS)
COUNTING = ["percentile", "mse", "entropy"]
FORMATS = [Format(bits, signed) for bits in (8, 16) for signed in (False, True)]


def _draw(kind: str, count: int = 20_000) -> np.ndarray:
    random = np.random.default_rng(len(kind))
    normal = random.normal(size=count)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "negative": -np.abs(normal),
        "shifted": normal + 2,
        "laplace": random.laplace(size=count),
        "lognormal": np.exp(1.2 * normal),
        "silu": 4 * normal / (1 + np.exp(-4 * normal)),
        "tiny": 1e-7 * random.laplace(size=count),
    }[kind].astype(np.float32)


DRAWN = ["normal", "relu", "negative", "shifted", "laplace", "lognormal", "silu", "tiny"]


def _observe(name: str, *parts):
    observer = OBSERVERS[name]()
    for part in parts:
        assert observer.see(torch.as_tensor(part))
    return observer


def _real(x: np.ndarray, code: Affine) -> np.ndarray:
    low, high = code.form.limits
    q = np.clip(np.round(x.astype(np.float64) / code.scale) + code.zero_point, low, high)
    return (q - code.zero_point) * code.scale


def _without_extremes(x: np.ndarray) -> np.ndarray:
    return np.sort(x)[1:-1]


# ---- each against its definition -------------------------------------------------------------------------------------


@given(st.lists(finite, min_size=1, max_size=9))
def test_min_max_codes_hold_zero_exactly_and_everything_seen_to_half_a_step(values):
    code = _observe("min_max", values).affine()
    x = np.array([*values, 0.0], np.float32)
    back = _real(x, code)
    assert back[-1] == 0
    if max(map(abs, values)) > 1e-9:
        assert np.abs(back - x).max() <= code.scale * (1 + 1e-3)  # the zero point is rounded too


def test_the_moving_average_is_the_recurrence_over_the_batches_ranges():
    parts = _draw("laplace").reshape(50, -1)
    low, high = parts[0].min(), parts[0].max()
    for part in parts[1:]:
        low, high = 0.9 * low + 0.1 * part.min(), 0.9 * high + 0.1 * part.max()
    assert _observe("moving_average", *parts).bounds(Format()) == pytest.approx((low, high), rel=1e-5)


@pytest.mark.parametrize("kind", DRAWN)
def test_percentiles_are_those_of_all_numbers_kept(kind):
    x = _draw(kind, 200_000)
    found = _observe("percentile", *x.reshape(8, -1)).bounds(Format())
    want = np.percentile(x, [0.01, 99.99])
    assert found == pytest.approx(tuple(want), rel=1 / 64, abs=1e-30)


@pytest.mark.parametrize("kind", DRAWN)
def test_no_other_range_has_a_smaller_squared_error_on_all_numbers_kept(kind):
    x = _draw(kind)
    kept = _without_extremes(x)
    ends = np.geomspace(0.05, 1, 40)
    lows, highs = (min(0.0, kept[0]) * ends, max(0.0, kept[-1]) * ends)
    grid = itertools.product(lows if kept[0] < 0 else [0.0], highs if kept[-1] > 0 else [0.0])
    best = min(float(np.square(kept - _real(kept, Affine.over(*map(float, ends)))).mean()) for ends in grid)
    found = _observe("mse", *x.reshape(8, -1)).affine()
    assert np.square(kept - _real(kept, found)).mean() <= 1.02 * best


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("kind", ["relu", "shifted", "silu"])
def test_the_expected_squared_error_is_that_of_all_numbers_kept(kind, form):
    x = _draw(kind)
    bins = _observe("mse", x).bins()
    for share in (1.0, 0.6, 0.1):
        code = Affine.over(float(share * x.min()), float(share * x.max()), form)
        want = np.square(x - _real(x, code)).mean()
        assert squared_error(bins, code) == pytest.approx(want, rel=0.03)


def test_the_expected_squared_error_is_right_for_wide_steps_and_beyond_the_range():
    for low, high in ((0.3, 0.31), (1.1, 1.9), (-0.7, -0.6), (90.0, 100.0), (-9.0, -7.0)):
        x = np.random.default_rng(0).uniform(low, high, 50_000).astype(np.float32)
        code = Affine(0.25, 8)  # from -2 to 61.75
        want = np.square(x - _real(x, code)).mean()
        assert squared_error(_observe("mse", x).bins(), code) == pytest.approx(want, rel=0.02)


def _kl_by_definition(bins, code: Affine) -> float:
    """P and Q bin by bin: the clipped go to P's last bin, a code's mass is spread over its bins by their widths."""
    low, high = code.range
    centres = [(a + b) / 2 for a, b in zip(bins.left, bins.right, strict=True)]
    inside = [i for i, c in enumerate(centres) if low - code.scale / 2 <= c <= high + code.scale / 2]
    p = {i: float(bins.counts[i]) for i in inside}
    groups: dict[int, list[int]] = {}
    for i in inside:
        groups.setdefault(round(centres[i] / code.scale), []).append(i)
    width = {i: max(bins.right[i] - bins.left[i], abs(centres[i]) / 256) for i in inside}
    q = {
        i: sum(p[j] for j in group) * width[i] / sum(width[j] for j in group)
        for group in groups.values()
        for i in group
    }
    kept = sum(q.values())
    for i, count in enumerate(bins.counts):
        if i not in p:
            p[inside[0] if i < inside[0] else inside[-1]] += float(count)
    total = sum(p.values())
    return sum(p[i] / total * np.log((p[i] / total) / (q[i] / kept)) for i in inside)


@pytest.mark.parametrize("kind", ["relu", "silu", "lognormal"])
def test_the_entropy_range_diverges_least_of_all_thresholds(kind):
    x = _draw(kind)
    observer = _observe("entropy", *x.reshape(8, -1))
    bins, found = voters(observer.bins(), Format()), observer.affine()
    assert divergence(bins, found) == pytest.approx(_kl_by_definition(bins, found), rel=1e-6)
    low, high = min(0.0, float(x.min())), float(np.sort(x)[-2])
    ranges = [Affine.over(max(low, -end), min(high, end)) for end in np.geomspace(high / 50, high, 400)]
    assert divergence(bins, found) <= 1.03 * min(divergence(bins, code) for code in ranges)


def _migacz(x: np.ndarray) -> float:
    """The threshold of positive numbers over 2048 bins of equal width, as the paper's pseudocode finds it."""
    counts, edges = np.histogram(x[x > 0], 2048, range=(0, x.max()))
    costs = {}
    for i in range(256, 2049, 4):
        code = np.arange(i) * 256 // i
        p, used = counts[:i].astype(float), counts[:i] > 0
        p[-1] += counts[i:].sum()
        q = np.where(used, (np.bincount(code, counts[:i]) / np.maximum(1, np.bincount(code, used)))[code], 0)
        some = (p > 0) & (q > 0)
        cost = (p[some] / p.sum() * np.log(p[some] / p.sum() / (q[some] / q.sum()))).sum()
        costs[float(edges[i])] = cost if some[p > 0].all() else np.inf
    return min(costs, key=costs.__getitem__)


@pytest.mark.parametrize("kind", ["relu", "negative", "lognormal"])
def test_the_entropy_threshold_is_near_that_of_a_linear_histogram(kind):
    x = _draw(kind, 1_000_000)
    low, high = _observe("entropy", x).bounds(Format())
    assert max(-low, high) == pytest.approx(_migacz(np.abs(x)), rel=0.4)


# ---- what holds for every observer -----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.lists(finite, min_size=1, max_size=9), min_size=1, max_size=5), st.randoms())
def test_an_observer_sees_the_same_in_parts_and_in_any_order_as_at_once(parts, random):
    whole = [value for part in parts for value in part]
    shuffled = random.sample(parts, len(parts))
    for name in ("min_max", *COUNTING):
        assert _observe(name, *parts).affine() == _observe(name, whole).affine() == _observe(name, *shuffled).affine()


@settings(max_examples=40)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_zero_has_a_code_whatever_was_seen(values):
    for name, form in itertools.product(EVERY, FORMATS):
        code = _observe(name, values).affine(form)
        low, high = form.limits
        assert low <= code.zero_point <= high
        assert 0 < code.scale < np.inf
        assert code.range[0] <= 0 <= code.range[1]
        if min(values) >= 0:
            assert code.zero_point == low, "behind a relu no code is spent on negative numbers"


@pytest.mark.parametrize("name", EVERY)
def test_an_observer_refuses_what_is_not_finite_and_forgets_nothing(name):
    observer = _observe(name, [-1.0, 2.0, 1.0])
    before = observer.affine()
    for bad in ([9.0, float("nan")], [float("-inf")], [float("inf"), 1.0]):
        assert not observer.see(torch.tensor(bad))
    assert not observer.see(torch.tensor([1e300], dtype=torch.float64)), "it is infinite as a float32"
    assert observer.see(torch.empty(0, 3))
    assert observer.affine() == before


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("value", [3.7, -2.0, 0.0, 1e30])
def test_what_never_varies_is_held_exactly(name, value):
    code = _observe(name, torch.full((40, 5), value)).affine()
    assert _real(np.array([value]), code)[0] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_one_number_and_nothing_at_all_give_a_usable_code(name):
    assert _observe(name, [0.5]).affine().range[1] == pytest.approx(0.5)
    assert OBSERVERS[name]().affine() == Affine.over(0, 0)


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("outlier", [1e30, -1e30])
@pytest.mark.parametrize("count", [4_000, 100_000])
def test_one_huge_number_does_not_take_the_precision_of_the_others(name, outlier, count):
    x = _draw("normal", count)
    with_it = _observe(name, x, [outlier]).affine()
    assert with_it.scale == pytest.approx(_observe(name, x).affine().scale, rel=0.2)


@pytest.mark.parametrize("name", EVERY)
def test_the_layout_and_the_dtype_of_a_value_do_not_matter(name):
    x = torch.from_numpy(_draw("laplace", 2 * 3 * 8 * 8)).reshape(2, 3, 8, 8).bfloat16()
    want = _observe(name, x.float()).affine()
    for same in (x, x.double(), x.float().contiguous(memory_format=torch.channels_last), x.float().mT):
        assert _observe(name, same).affine() == want
    assert _observe(name, x.float()[:1, :, :1].expand(2, 3, 8, 8)).affine().scale > 0


def test_the_histogram_counts_every_number_in_its_bin():
    x = np.concatenate(
        [_draw(kind) for kind in DRAWN] + [np.zeros(5, np.float32), np.float32([-0.0, 3e38, -3e38, 1e-45])]
    )
    observer = _observe("percentile", *np.array_split(x, 7))
    bins = observer.bins()
    assert bins.counts.sum() == len(x)
    assert (bins.left[1:] >= bins.right[:-1]).all()
    assert bins.left[0] == x.min()
    assert bins.right[-1] == x.max()
    for edge in (-1.0, 0.5, 1.0, 1024.0):  # powers of two are edges of bins; one that is an edge is in the bin above it
        if edge > 0:
            assert bins.counts[bins.left >= edge].sum() == (x >= edge).sum()
        else:
            assert bins.counts[bins.right <= edge].sum() == (x <= edge).sum()


@pytest.mark.parametrize("name", EVERY)
def test_memory_does_not_grow_with_what_is_seen(name):
    observer = _observe(name, _draw("laplace"))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for step in range(30):
        observer.see(torch.from_numpy(_draw("normal", 1000)) * 10.0**step)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2000
    if isinstance(observer, Histogram):
        assert len(observer.counts) == 65536


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_a_value_is_written_in_the_format_of_its_code(form):
    program = capture(nn.ReLU(), (torch.linspace(-1, 3, 50),), dynamic=None)
    (node,) = program.inputs()
    code = _observe("min_max", program.args[0]).affine(form)
    (reader,) = node.users
    emit(program, Placement(values={node: node}, edges={(node, reader)}), {node: code}, {})
    program.module.recompile()
    assert (program(*program.args) - F.relu(program.args[0])).abs().max() <= 0.5001 * 4 / 2**form.bits * (1 + 0.01)
    (quantized,) = program.find("quantized_decomposed.quantize_per_tensor")
    assert quantized.args[5].itemsize * 8 == form.bits
    assert quantized.args[5].is_signed == form.signed


# ---- calibration -----------------------------------------------------------------------------------------------------


class _Images:
    """One row of numbers an image."""

    metric = "none"

    def __init__(self, rows: torch.Tensor, batch: int | None = None) -> None:
        self.rows, self.batch = rows, batch

    def batches(self, split, *, batch_size, seed=None):
        for part in self.rows.split(self.batch or batch_size):
            yield (part,), None


def _calibrated(net: nn.Module, rows: torch.Tensor, passes: str, batch: int | None = None):
    """Scales of activations in order, and reasons."""
    program = capture(net.eval(), (rows[:2],))
    workload = Workload(name="rows", model=lambda: net, inputs=lambda: ((rows[:2],), {}), data=_Images(rows, batch))
    outcome = Pipeline.parse(passes).run(program, workload=workload, watchers=())
    nodes = outcome.program.find("quantized_decomposed.quantize_per_tensor")
    return [node.args[1] for node in nodes], [skip for step in outcome.steps for skip in step.skips]


def test_the_pass_takes_the_range_of_the_observer_that_it_is_told():
    rows = torch.from_numpy(_draw("laplace", 64 * 300)).reshape(64, 300)
    rows[40, 7] = 1e6
    for name in EVERY:
        (scale,), skips = _calibrated(nn.Linear(300, 3), rows, f"quantize(calibration={name!r})")
        assert scale == _observe(name, rows[:32], rows[32:]).affine().scale
        assert not skips
        assert (scale > 100) == (name in ("min_max", "moving_average"))


def test_too_few_images_are_reported_with_both_numbers():
    net, rows = nn.Linear(4, 4), torch.randn(12, 4)
    _, (skip,) = _calibrated(net, rows, "quantize(images=20)")
    assert "12 images, 20 were asked for" in skip.reason
    _, skips = _calibrated(net, rows, "quantize(images=12)")
    assert not skips


def test_images_are_counted_and_not_batches():
    rows = torch.randn(12, 4)
    rows[11, 0] = 50.0
    (scale,), skips = _calibrated(nn.Linear(4, 4), rows, "quantize(images=12)", batch=3)
    assert not skips
    assert scale > 50 / 256, "the last of four small batches was seen too"


def test_a_value_that_never_varies_is_reported_with_its_line():
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(F.relu(self.a(x) - 1e6))

    scales, skips = _calibrated(Dead(), torch.randn(8, 4), "quantize(images=8)")
    assert len(scales) == 2
    (skip,) = skips
    assert "nothing but 0" in skip.reason
    assert "aten.relu" in skip.node
    assert "test_observers.py:" in skip.source


def _calibrate(images: int = 8) -> None:
    program = capture(nn.Linear(4, 4), (torch.randn(2, 4),))
    wanted = {node: node for node in program.inputs()}
    calibrate(program, small_workload(program).calibration(images, "the test"), wanted, images=images)


def test_calibration_prints_nothing_where_no_terminal_is(capfd):
    _calibrate()
    assert capfd.readouterr() == ("", "")


def test_a_terminal_is_shown_how_many_images_are_done_beside_what_it_shows_already():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=60)
    with shown_on(terminal), terminal.status("passes"):
        _calibrate()
    assert "calibrating" in terminal.file.getvalue()
