"""Files to start a pass, a backend, a workload or a recipe from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from fxopt.errors import UsageError

Kind = Literal["pass", "backend", "workload", "recipe"]

_PASS = '''"""{name}: say here what the pass is for."""

from __future__ import annotations

from fxopt import Program, graph_pass


@graph_pass  # exact: the outputs must not change, and that is proved; otherwise @graph_pass(kind="approx")
def {name}(program: Program) -> None:
    """Let the users of an evaluation-mode dropout read its input.

    before:
        %x : f32[2,4]
        %y = aten.dropout(%x, 0.5, False)
        %z = aten.relu(%y)
        return %z
    after:
        %x : f32[2,4]
        %z = aten.relu(%x)
        return %z
    """
    for node in program.find("aten.dropout"):
        source, _, train = node.args
        if train:
            program.skip(node, "train=True: removing it would change the output")
        else:
            program.replace(node, source)
'''

_TEST = '''"""The contract that every pass is held to, and one case of its own."""

import torch
from {name} import {name}

from fxopt import Pipeline, capture
from fxopt.testing import run_checks


def test_contract():
    failed = [result for result in run_checks({name}) if not result.passed]
    assert not failed, failed


def test_dropout_goes():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(), torch.nn.ReLU())
    program = capture(model, (torch.randn(2, 4),))
    outcome = Pipeline.of({name}()).run(program)  # verified: raises if an output changed
    assert outcome.steps[0].changed
    assert not list(outcome.program.find("aten.dropout"))
'''


_BACKEND = '''"""{name}: say here what it compiles for, and which runtime it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fxopt.backend import Backend, Manifest, Runner, read_json

if TYPE_CHECKING:
    from torch import fx

    from fxopt import Program, Target

OPS = {{"aten.relu": lambda x: np.maximum(x, 0), "aten.neg": np.negative, "aten.add.Tensor": np.add}}
"""What it can do, by the name that the op has in the text form."""


@dataclass(frozen=True)
class {class_name}(Backend):
    """Run a graph of a few ops with numpy, op by op."""

    name: ClassVar[str] = "{name}"

    def refuses(self, node: fx.Node) -> str | None:
        """Why it cannot run a node."""
        from fxopt import op_name

        plain = op_name(node) in OPS and not node.kwargs
        return None if plain else f"{name} has only {{', '.join(sorted(OPS))}}, by position"

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write the graph as graph.json; what is returned goes into the report."""
        from torch import fx

        from fxopt import op_name

        plain = lambda value: {{"value": value.name}} if isinstance(value, fx.Node) else value  # noqa: E731
        calls = [n for n in program.graph.nodes if n.op == "call_function"]
        graph = {{
            "inputs": [node.name for node in program.inputs()],
            "calls": [[node.name, op_name(node), [plain(arg) for arg in node.args]] for node in calls],
            "outputs": [plain(out) for out in program.outputs()],
        }}
        (out / "graph.json").write_text(json.dumps(graph))
        return {{"calls": len(calls)}}

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Read it again; this runs on the device, without torch."""
        graph = read_json(folder / "graph.json")

        def run(arrays: Sequence[Any]) -> list[Any]:
            values = dict(zip(graph["inputs"], arrays, strict=True))
            get = lambda arg: values[arg["value"]] if isinstance(arg, dict) else arg  # noqa: E731
            for name, op, args in graph["calls"]:
                values[name] = OPS[op](*map(get, args))
            return [get(out) for out in graph["outputs"]]

        return run
'''

_BACKEND_TEST = '''"""A model built and run, against torch."""

import numpy as np
import torch
from {name} import {class_name}

import fxopt
from fxopt import registry


def test_it_gives_what_torch_gives(tmp_path):
    model = torch.nn.ReLU()
    fxopt.save_program(fxopt.capture(model, (torch.randn(2, 4),)), tmp_path / "net.pt2")
    with registry.restored():
        registry.register("backend", "{name}", {class_name}, "the test")
        recipe = fxopt.Recipe(str(tmp_path / "net.pt2"), backend="{name}")
        fxopt.build(recipe, tmp_path / "out", measure=False)  # which compares it with eager, too
        x = torch.randn(3, 4)
        assert np.allclose(fxopt.load(tmp_path / "out")(x.numpy()), model(x).numpy())
'''

_WORKLOAD = '''"""{name}: say here what the model is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from fxopt import Workload


class Data:
    """What is known beside the model: a loss and a metric over examples of three splits."""

    metric = "top-1"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)  # put your own data here
        images = torch.randn(96, 8, generator=generator)
        labels = (images[:, 0] > 0).long()
        self._splits = {{
            "train": (images[:64], labels[:64]),
            "validation": (images[64:80], labels[64:80]),
            "test": (images[80:], labels[80:]),
        }}

    def batches(self, split: str, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[tuple[Any], Any]]:
        """Inputs and labels; with a seed in that random order."""
        images, labels = self._splits[split]
        order = torch.arange(len(images))
        if seed is not None:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        for some in order.split(batch_size):
            yield (images[some],), labels[some]

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What training makes smaller."""
        return torch.nn.functional.cross_entropy(output, target)

    def evaluate(self, model: Any, split: str = "test") -> float:
        """The metric; the larger, the better."""
        pairs = [(torch.as_tensor(model(*args)), labels) for args, labels in self.batches(split, batch_size=16)]
        return torch.cat([output.argmax(1) == labels for output, labels in pairs]).float().mean().item()


def _net() -> torch.nn.Module:
    torch.manual_seed(0)  # load your trained weights here
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()


def {name}() -> Workload:
    """A small network on random data."""
    return Workload(name="{name}", model=_net, inputs=lambda: ((torch.randn(1, 8),), {{}}), data=Data())
'''

_WORKLOAD_TEST = '''"""The workload can be captured, trained and judged."""

from {name} import {name}

from fxopt import Pipeline


def test_passes_can_use_its_data():
    workload = {name}()
    outcome = Pipeline.parse("prune_channels(ratio=0.25)").run(workload.capture(), workload=workload)
    assert outcome.steps[0].findings.metric is not None
'''

_RECIPE = """#:schema ./recipe.schema.json
# Build it: fxopt build {name}.toml -o build/{name}      Editors complete it with: fxopt schema > recipe.schema.json

model = "digits"            # a name of `fxopt models`, package.module:attribute, or a .pt2 file
passes = [                  # in this order; `fxopt passes` lists them, `fxopt explain NAME` has their options
    "prune_channels(ratio=0.25)",
    "fold_batch_norm",
    "clean_up",
    "quantize",
]
backend = "onnx"            # `fxopt backends`; "fastest" tries all
target = "host"             # `fxopt targets`, or a .toml file of yours

[budget]                    # missed: exit code 1
metric_drop = 0.05
file_bytes = 2_000_000
"""

_FILES: dict[Kind, dict[str, str]] = {
    "pass": {"{name}.py": _PASS, "test_{name}.py": _TEST},
    "backend": {"{name}.py": _BACKEND, "test_{name}.py": _BACKEND_TEST},
    "workload": {"{name}.py": _WORKLOAD, "test_{name}.py": _WORKLOAD_TEST},
    "recipe": {"{name}.toml": _RECIPE},
}
_NEXT: dict[Kind, tuple[str, ...]] = {
    "pass": (
        "check it:     fxopt check {name} --load {path}",
        "use it:       fxopt build digits -p {name} --load {path} --out build/digits",
        'package it:   [project.entry-points."fxopt.passes"]  {name} = "your_package.{name}:{name}"',
    ),
    "backend": (
        "check it:     fxopt check {name} --load {path}",
        "use it:       fxopt build MODEL -b {name} --load {path} --out build/model",
        'package it:   [project.entry-points."fxopt.backends"]  {name} = "your_package.{name}:{class_name}"',
    ),
    "workload": (
        "use it:       fxopt build {name} -p quantize --load {path} --out build/{name}",
        'package it:   [project.entry-points."fxopt.workloads"]  {name} = "your_package.{name}:{name}"',
    ),
    "recipe": ("build it:     fxopt build {path} --out build/{name}",),
}
_NAMED: dict[Kind, str] = {
    "pass": "verb_object in snake_case, such as drop_dropout", "backend": "snake_case, such as my_runtime",
    "workload": "snake_case, such as my_net", "recipe": "snake_case, such as my_net",
}  # fmt: skip


def write_files(kind: Kind, name: str, into: Path) -> list[str]:
    """Write the files of a kind under a name; return lines that say what to do next.

    Raises UsageError for a name that is not snake_case, a taken name, a file that exists, or a folder that cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise UsageError(f"a {kind} is named {_NAMED[kind]}; got {name!r}")
    from fxopt import registry

    if kind != "recipe" and name in registry.names(kind):
        raise UsageError(f"the {kind} {name!r} exists already; see `fxopt explain {name}`")
    said = {"name": name, "class_name": "".join(part.capitalize() for part in name.split("_"))}
    files = {into / path.format(**said): text.format(**said) for path, text in _FILES[kind].items()}
    for path in files:
        if path.exists():
            raise UsageError(f"{path} exists already; choose another name or --into another folder")
    try:
        into.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to {into}: {error.strerror}") from None
    first = next(iter(files))
    return [f"wrote {' and '.join(map(str, files))}", *(line.format(path=first, **said) for line in _NEXT[kind])]
