"""Run by the Python of the converter's environment, where fxopt is not: a ``.pt2`` file becomes ``model.tflite``.

``python -I to_tflite.py MODEL OUT FACTS``. The file is made for one example: dims that are dynamic in the program have size 1.
"""

import json
import sys
from pathlib import Path

import litert_torch
import torch
import torch.ao.quantization.fx._decomposed  # its ops are known to torch.export.load once this is imported

OPS = torch.ops.quantized_decomposed
QUANTIZE = {
    OPS.dequantize_per_channel.default: OPS.quantize_per_channel.default,
    OPS.dequantize_per_tensor.default: OPS.quantize_per_tensor.default,
}
"""The op that makes integers of what each op makes of integers."""


def main(model: str, out: str, facts: str) -> None:
    """Convert a file. What the converter has no lowering for is told as an error."""
    exported = torch.export.load(model)
    if exported.example_inputs is None or exported.example_inputs[1]:
        _refuse(facts, "LiteRT takes inputs by position, and this model has some by name", "pass them by position")
    try:
        converted = litert_torch.convert(_as_quantized(exported.module()), _one_example(exported))
    except Exception as error:
        _refuse(
            facts, f"LiteRT's converter failed: {type(error).__name__}: {str(error).strip().splitlines()[-1]}", None
        )
    converted.export(str(Path(out) / "model.tflite"))
    versions = {"litert_torch": litert_torch.__version__, "torch": torch.__version__}
    Path(facts).write_text(json.dumps({"converter": versions}))


def _one_example(exported: torch.export.ExportedProgram) -> tuple[torch.Tensor, ...]:
    """The example inputs, of which each dynamic dim is cut to 1."""
    names = set(exported.graph_signature.user_inputs)
    values = [n.meta["val"] for n in exported.graph.nodes if n.op == "placeholder" and n.name in names]
    found = []
    for tensor, value in zip(exported.example_inputs[0], values, strict=True):
        for dim, size in enumerate(value.shape):
            if not isinstance(size, int):
                tensor = tensor.narrow(dim, 0, 1)
        found.append(tensor)
    return tuple(found)


def _as_quantized(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Stored integers as the converter takes them: weights in float behind a quantize op, biases in float alone.

    It makes the same integers of them: the op divides by the scale that they were multiplied with, and biases are quantized by
    the scales of the input and of the weight, which are theirs.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in QUANTIZE or node.args[0].op != "get_attr":
            continue
        stored, parameters = node.args[0], node.args[1:]
        attributes = [_value(module, a) if isinstance(a, torch.fx.Node) else a for a in (stored, *parameters)]
        name = f"{node.name}_float"
        module.register_buffer(name, node.target(*attributes, **node.kwargs))
        with module.graph.inserting_before(node):
            value = module.graph.get_attr(name)
            if attributes[0].dtype == torch.int32:
                node.replace_all_uses_with(value)
            else:
                node.replace_input_with(stored, module.graph.call_function(QUANTIZE[node.target], (value, *parameters)))
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _value(module: torch.fx.GraphModule, node: torch.fx.Node) -> torch.Tensor:
    found = module
    for part in node.target.split("."):
        found = getattr(found, part)
    return found


def _refuse(facts: str, error: str, way_out: str | None) -> None:
    Path(facts).write_text(json.dumps({"error": error, "way_out": way_out}))
    sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
