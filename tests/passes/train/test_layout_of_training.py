"""The layout in memory that programs are trained in."""

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.ir.trainable_module import as_module
from fxopt.passes.train.layout import use_channels_last
from fxopt.testing import small_workload


def residual(inputs, stride):
    """A convolution of three by three, and a pointwise one of ``inputs`` channels."""
    return nn.Sequential(nn.Conv2d(3, inputs, 3, padding=1), nn.Conv2d(inputs, 12, 1, stride=stride)).eval()


@pytest.mark.parametrize(("inputs", "stride", "innermost"), [(4, 1, True), (8, 2, True), (4, 2, False), (7, 2, False)])
def test_channels_are_innermost_unless_a_gradient_would_write_beyond_its_memory(inputs, stride, innermost):
    program = capture(residual(inputs, stride), (torch.randn(2, 3, 8, 8),))
    module = as_module(program)
    use_channels_last(program, module)
    kernels = [p for p in module.parameters() if p.dim() == 4 and p.shape[-1] == 3]
    assert [p.is_contiguous(memory_format=torch.channels_last) for p in kernels] == [innermost]


def test_a_net_whose_gradient_is_wrong_in_that_layout_is_trained():
    program = capture(nn.Sequential(residual(4, 2), nn.Flatten(), nn.LazyLinear(3)), (torch.randn(2, 3, 8, 8),))
    workload = small_workload(program)
    after = Pipeline.parse("distill(epochs=3)").run(program, workload=workload).program
    assert all(bool(t.isfinite().all()) for t in after.tensors().values())
