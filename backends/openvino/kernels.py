"""What OpenVINO made of a model: in which precision each convolution and matrix product computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from fxopt.backends.openvino.runtime import compile_model, new_core
from fxopt.backends.openvino.values import stored_as

_CONTRACTIONS = {
    "Convolution": 1, "GroupConvolution": 1, "ConvolutionBackpropData": 1, "GroupConvolutionBackpropData": 1, "MatMul": 1,
    "ScaledDotProductAttention": 2,
}  # fmt: skip
"""Kinds of nodes with how many products each computes."""


def kernel_facts(path: Path, chosen: dict[str, Any], origins: dict[str, str]) -> dict[str, Any]:
    """Facts about the compiled form of the model ``path``.

    ``precisions``: how many convolutions and matrix products, two of them for attention, compute in each precision, ``i8``
    for signed and unsigned bytes; ``integer_contractions`` and ``float_contractions`` are their sums.
    ``dequantized_at_run_time``: every convolution or matrix product whose weight is stored in integers and that computes in
    float after all, with where it comes from. ``nodes``: kinds of nodes with their number. Raises BackendError where
    OpenVINO refuses the model.
    """
    runtime = compile_model(path, chosen).get_runtime_model().get_ordered_ops()
    executed = {name: node for node in map(_facts, runtime) for name in node["originalLayersNames"].split(",")}
    precisions: Counter[str] = Counter()
    late = []
    for node in new_core().read_model(path).get_ordered_ops():
        if node.get_type_name() not in _CONTRACTIONS:
            continue
        names = _names(node)
        found = next((executed[name] for name in names if name in executed), None)
        if found is None:
            continue  # computed from constants
        # the kernel's name ends in what it reads: the runtimePrecision of a layer may be that of its weight alone
        precision = found["primitiveType"].rpartition("_")[2].lower()
        precisions[precision] += _CONTRACTIONS[node.get_type_name()]
        stored = stored_as(node)
        if precision != "i8" and stored is not None:
            origin = next((origins[name] for name in names if name in origins), f"{node.get_type_name()} {names[0]}")
            late.append(
                f"{origin}: its weight is stored in {stored} and it computes in {precision}, as the runtime found no "
                "integers at its input, or has no integer kernel for it"
            )
    return {
        "integer_contractions": precisions["i8"],
        "float_contractions": precisions.total() - precisions["i8"],
        "precisions": dict(sorted(precisions.items())),
        "dequantized_at_run_time": late,
        "nodes": dict(sorted(Counter(_facts(node)["layerType"] for node in runtime).items())),
    }


def _facts(node: Any) -> dict[str, str]:
    """What the runtime tells of an executed node."""
    told = node.get_rt_info()
    return {key: told[key].astype(str) for key in ("layerType", "primitiveType", "originalLayersNames")}


def _names(node: Any) -> list[str]:
    """Names that a contraction may be known by: its own, and those of the scaling and bias that it is fused with."""
    own = node.get_friendly_name()
    names = [own, own.removesuffix("/WithoutBiases")]
    readers = node.output(0).get_target_inputs()
    while len(readers) == 1 and (reader := readers.pop().get_node()).get_type_name() in ("Multiply", "Add"):
        names.append(reader.get_friendly_name())
        readers = reader.output(0).get_target_inputs()
    return names
