"""Run by the Python of the converter's environment, where fxopt is not: a ``.pt2`` file becomes ``model.tflite``.

``python -I to_tflite.py MODEL OUT FACTS``. The file is made for one example: dims that are dynamic in the program have size 1.
"""

import json
import sys
from pathlib import Path

import litert_torch
import torch
from torch.utils import _pytree as pytree


class Flat(torch.nn.Module):
    """A program with its tensors by position, and a tuple of tensors as its result."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = exported.module()
        self.spec = pytree.tree_structure(exported.example_inputs)

    def forward(self, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the program with its inputs nested as it takes them."""
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return tuple(pytree.tree_leaves(self.program(*args, **kwargs)))


def main(model: str, out: str, facts: str) -> None:
    """Convert a file. What the converter has no lowering for is told as an error."""
    exported = torch.export.load(model)
    module = Flat(exported)
    for part in module.modules():  # a loaded module has no eval(), and is converted with a warning in training mode
        part.training = False
    try:
        converted = litert_torch.convert(module, _one_example(exported), enable_x64=True)
        converted.export(str(Path(out) / "model.tflite"))
    except Exception as error:
        _refuse(
            facts, f"LiteRT's converter failed: {type(error).__name__}: {str(error).strip().splitlines()[-1]}", None
        )
    versions = {"litert_torch": litert_torch.__version__, "torch": torch.__version__}
    Path(facts).write_text(json.dumps({"converter": versions}))


def _one_example(exported: torch.export.ExportedProgram) -> tuple[torch.Tensor, ...]:
    """The example inputs, of which each dynamic dim is cut to 1."""
    names = set(exported.graph_signature.user_inputs)
    values = [n.meta["val"] for n in exported.graph.nodes if n.op == "placeholder" and n.name in names]
    found = []
    for tensor, value in zip(pytree.tree_leaves(exported.example_inputs), values, strict=True):
        for dim, size in enumerate(value.shape):
            if not isinstance(size, int):
                tensor = tensor.narrow(dim, 0, 1)
        found.append(tensor)
    return tuple(found)


def _refuse(facts: str, error: str, way_out: str | None) -> None:
    Path(facts).write_text(json.dumps({"error": error, "way_out": way_out}))
    sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
