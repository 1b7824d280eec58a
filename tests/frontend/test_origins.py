"""An export numbers nodes anew; origins say which node of the program each is, whatever its name."""

import torch

import fxopt
from fxopt.frontend.origins import origins_of
from fxopt.frontend.pt2 import export_program


def test_a_node_is_found_under_its_old_name_though_another_has_the_new_one():
    class Net(torch.nn.Module):
        def forward(self, x):
            return torch.relu(torch.sigmoid(torch.relu(torch.tanh(x))))

    program = fxopt.capture(Net(), (torch.randn(2, 3),))
    first, last = program.find("aten.relu")
    program.replace(first, first.args[0])
    program.module.recompile()
    exported = export_program(program)
    (relu,) = (node.name for node in exported.graph.nodes if "relu" in node.name)
    assert relu != last.name
    found = origins_of(exported, program)
    assert found[relu] == last.name
    decomposed = exported.run_decompositions()
    assert last.name in origins_of(decomposed, program).values()
