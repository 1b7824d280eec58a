"""Files to start a pass from."""

from __future__ import annotations

import re
from pathlib import Path

from fxopt.errors import UsageError

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


def write_pass(name: str, into: Path) -> list[str]:
    """Write ``NAME.py`` and ``test_NAME.py``; return lines that say what to do next.

    Raises UsageError for a name that is not snake_case, a taken name, a file that exists, or a folder that cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise UsageError(f"a pass is named verb_object in snake_case, such as drop_dropout; got {name!r}")
    from fxopt import registry

    if name in registry.names("pass"):
        raise UsageError(f"the pass {name!r} exists already; see `fxopt explain {name}`")
    files = {into / f"{name}.py": _PASS, into / f"test_{name}.py": _TEST}
    for path in files:
        if path.exists():
            raise UsageError(f"{path} exists already; choose another name or --into another folder")
    try:
        into.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text.format(name=name))
    except OSError as error:
        raise UsageError(f"cannot write to {into}: {error.strerror}") from None
    module = into / f"{name}.py"
    return [
        f"wrote {module} and {into / f'test_{name}.py'}",
        f"check it:     fxopt check {name} --load {module}",
        f"use it:       fxopt build digits -p {name} --load {module} --out build/digits",
        f'package it:   [project.entry-points."fxopt.passes"]  {name} = "your_package.{name}:{name}"',
    ]
