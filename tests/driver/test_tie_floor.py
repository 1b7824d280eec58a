"""What codes a step off make of the outputs, against sums that are done by hand."""

import math

import numpy as np
import torch
from torch import nn

from fxopt import Pipeline
from fxopt.driver.int8_check import ValueCheck, check_values
from fxopt.driver.intermediate_values import quantized_values
from fxopt.driver.tie_floor import tie_floor
from fxopt.frontend.capture import capture
from fxopt.numerics.float64 import to_float64
from fxopt.testing import small_workload


def _twin():
    """Sixteen numbers in codes, each passed on by itself: a code that is off is one number that is off by a step."""
    keep = nn.Linear(16, 16, bias=False)
    with torch.no_grad():
        keep.weight.copy_(torch.eye(16))
    workload = small_workload(capture(keep, (torch.rand(1, 16),)))
    program = Pipeline.parse("insert_qdq").run(workload.capture(), workload=workload, watchers=()).program
    return to_float64(program), quantized_values(program)


def _off(node, count):
    return ValueCheck(node, True, 16, near=count, value=node.name)


def test_each_code_that_is_off_adds_the_square_of_a_step():
    twin, nodes = _twin()
    x = torch.full((1, 16), 0.5)
    scale = nodes[0].args[1]
    codes = np.round(0.5 / scale)
    for count in (1, 4, 16):
        want = 10 * math.log10(16 * (codes * scale) ** 2 / (count * scale**2))
        assert abs(tie_floor(twin, [x], [_off(nodes[0], count)]) - want) < 1e-3


def test_ties_are_rounded_up_or_down_together():
    """Half of the numbers at the tie of codes 0 and 1: rounded up they are a step off, down they are not."""
    twin, nodes = _twin()
    scale = torch.tensor(nodes[0].args[1])
    x = (4 * scale).repeat(1, 16)
    x[:, :8] = scale / 2
    want = 10 * math.log10(8 * 4**2 / 8)
    assert abs(tie_floor(twin, [x], []) - want) < 1e-3
    x[:, :8] = 0.4999 * scale
    assert tie_floor(twin, [x], []) == math.inf


def test_nothing_off_allows_nothing():
    twin, nodes = _twin()
    assert tie_floor(twin, [torch.rand(1, 16)], [_off(nodes[0], 0)]) == math.inf


def test_codes_rounded_otherwise_at_ties_are_no_error_and_elsewhere_they_are():
    """A drawn image has ties in a quarter of its pixels: more than may be a step off for other reasons."""
    keep = nn.Linear(64, 64, bias=False)
    workload = small_workload(capture(keep, (torch.rand(1, 64),)))
    program = Pipeline.parse("insert_qdq").run(workload.capture(), workload=workload, watchers=()).program
    twin, node = to_float64(program), quantized_values(program)[0]
    scale, zero_point = node.args[1], node.args[2]
    for share, is_wrong in ((0.5, False), (0.3, True)):
        x = torch.full((1, 64), 3 * scale)
        x[:, :32] = (2 + share) * torch.tensor(scale)
        codes = torch.full((1, 64), 3 + zero_point, dtype=torch.uint8)  # to the even code torch rounds 2.5 down
        checks = check_values(program, twin, [x], [torch.zeros(1, 64)], {node.name: codes})
        found = next(check for check in checks if check.value == node.name)
        assert found.near == 32
        assert found.wrong(1e-3) is is_wrong
