"""A Program as a plain module: trained on, pruned again, loaded into itself; and zeros that training made."""

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from fxopt import Pipeline, as_module, capture
from fxopt.ir.cost import cost


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12, momentum=0.3), nn.Linear(12, 3)
        self.drop = nn.Dropout(0.25)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def made():
    torch.manual_seed(0)
    net = Net().eval()
    return net, capture(net, (torch.randn(4, 1, 6, 6),))


def test_training_is_that_of_the_eager_module():
    net, program = made()
    module = as_module(program)
    for m in (net, module):
        m.train()
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1)
        for step in range(3):
            torch.manual_seed(step)
            x = torch.randn(8, 1, 6, 6)
            optimizer.zero_grad()
            m(x).square().sum().backward()
            optimizer.step()
        m.eval()
    x = torch.randn(5, 1, 6, 6)
    torch.testing.assert_close(module(x), net(x))
    assert module.state_dict().keys() == net.state_dict().keys()
    torch.testing.assert_close(module.state_dict()["norm.running_mean"], net.norm.running_mean)
    torch.testing.assert_close(module.program()(x), net(x).detach())


def test_the_program_is_not_touched_and_comes_back_in_evaluation():
    _, program = made()
    before = program.fingerprint()
    module = as_module(program).train()
    module(torch.randn(8, 1, 6, 6))
    assert program.fingerprint() == before
    assert "True" not in module.program().text().replace("1e-05, True", "")
    assert module.training


def test_rounds_without_a_new_capture():
    _, program = made()
    for _ in range(3):
        program = Pipeline.parse("prune_channels(ratio=0.3)").run(program).program
        module = as_module(program).train()
        module.load_state_dict(module.state_dict())
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        module(torch.randn(8, 1, 6, 6)).square().sum().backward()
        optimizer.step()
        program = module.program()
    assert program.tensors()["conv.weight"].shape[0] == 5  # 12, 9, 7, 5: what goes is rounded down


def test_group_lasso_of_the_users_own_makes_zeros_that_shrink_removes():
    """Proximal steps on the columns of the head: what they zero is gone, and how many, numpy counts."""
    net, program = made()
    module = as_module(program)
    head = module.get_parameter("graph_module.head.weight")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for step in range(60):
        torch.manual_seed(step)
        x = torch.randn(16, 1, 6, 6)
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), net(x).detach()).backward()
        optimizer.step()
        with torch.no_grad():
            norms = head.norm(dim=0, keepdim=True)
            head.mul_((1 - 0.005 / norms).clamp(min=0))
    zero = int((head.detach().numpy() == 0).all(0).sum())
    assert 0 < zero < 12
    small = Pipeline.parse("shrink").run(module.program()).program
    assert small.tensors()["conv.weight"].shape[0] == 12 - zero


def test_a_mask_file(tmp_path):
    _, program = made()
    kept = np.array([1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0])
    save_file({"head.weight": torch.from_numpy(kept).float().reshape(1, 12)}, tmp_path / "mask.safetensors")
    outcome = Pipeline.parse(f"apply_mask(path='{tmp_path}/mask.safetensors'), shrink").run(program)
    small = outcome.program.tensors()
    assert torch.equal(small["conv.weight"], program.tensors()["conv.weight"][kept.astype(bool)])
    assert small["norm.running_var"].shape == (8,)
    assert cost(outcome.program).macs < cost(program).macs
