"""Products of a mixture of experts in ONNX Runtime and OpenVINO, against numpy, one expert after the other."""

import numpy as np
import pytest
import torch
from cases.manifests import built_alone
from torch import nn

from fxopt import capture
from fxopt.backend import check_lowerable, find_backend
from fxopt.models.vision_import import import_transformers

pytest.importorskip("transformers")


class Experts(nn.Module):
    """Three of them, whose rows lie one below another."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, 8))

    def forward(self, rows, ends):
        return torch.ops.transformers.grouped_mm_fallback(rows, self.weight.transpose(1, 2).contiguous().mT, ends)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_each_expert_multiplies_its_rows(tmp_path, backend, dtype):
    import_transformers()
    import transformers.integrations.moe  # noqa: F401, which defines the op

    model, own = Experts(), find_backend(backend)
    example = torch.randn(6, 5), torch.tensor([1, 3, 6], dtype=dtype)
    program = capture(model, example, dynamic={"rows": {0: torch.export.Dim("rows")}, "ends": None})
    check_lowerable(own, program)
    built, _ = built_alone(program, own, tmp_path)
    weight = model.weight.detach().double().numpy()
    for count, ends in ((6, [1, 3, 6]), (9, [0, 9, 9]), (2, [0, 0, 2]), (4, [4, 4, 4])):
        rows = np.random.default_rng(0).standard_normal((count, 5)).astype(np.float32)
        want = np.concatenate([rows[a:b] @ weight[i] for i, (a, b) in enumerate(zip([0, *ends], ends, strict=False))])
        got = np.asarray(built(rows, np.array(ends, {torch.int32: np.int32, torch.int64: np.int64}[dtype])))
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-5
