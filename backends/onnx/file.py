"""An ONNX model as a file, with its weights, those that are read, beside it where they are too large for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 29
"""A protobuf message holds at most 2 GiB, and whoever reads or checks a model has it in memory twice."""

LEAST_BYTES_BESIDE = 1 << 16
"""Least bytes of what goes to the file beside."""


def store_beside(model: Any, path: Path) -> None:
    """Write the weights of a model of ``onnx_ir`` to the file beside ``path``, one at a time, where they are many."""
    from onnx_ir import external_data

    sizes = [value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(sizes) > MOST_BYTES:
        data = path.with_name(path.name + ".data")
        try:
            external_data.unload_from_model(model, data.parent, data.name, size_threshold_bytes=LEAST_BYTES_BESIDE)
        except OSError as error:  # a full disk, of which it says neither the file nor leaves one
            raise OSError(error.errno, error.strerror, error.filename or str(data)) from error


def save(model: Any, path: Path) -> None:
    """Write a model, the same bytes each time; weights go to a file beside it where they are many."""
    import onnx

    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MOST_BYTES:
        onnx.save_model(
            model,
            str(path),
            save_as_external_data=True,
            location=path.name + ".data",
            size_threshold=LEAST_BYTES_BESIDE,
        )
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))


def all_graphs(graph: Any) -> Iterator[Any]:
    """A graph, and those of its branches and loops, which read the values around them."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from all_graphs(inner)


def drop_unused(model: Any) -> None:
    """Remove stored tensors that nothing reads."""
    graphs = list(all_graphs(model.graph))
    used = {name for graph in graphs for node in graph.node for name in node.input}
    used |= {value.name for graph in graphs for value in graph.output}
    for initializer in [i for i in model.graph.initializer if i.name not in used]:
        model.graph.initializer.remove(initializer)
