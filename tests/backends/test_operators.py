"""Every op on every backend: refused before the build, with a reason, or built with torch's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import single_ops
from torch.utils import _pytree as pytree

from fxopt.backend import find_backend
from fxopt.driver.lower import lower
from fxopt.errors import text_of
from fxopt.target import find_target

_TOGETHER = 48
"""Cases in one build; where it fails, halves of it are built until the culprits are found."""
_BACKWARD = ("backward", "sym_", "empty", "_local_scalar_dense", "rand", "_fft", "embedding_bag")
"""Parts of names of core ops that are none of a backend: gradients, sizes, memory, chance, complex numbers."""


def test_every_core_op_of_torch_has_a_case():
    named = {op for case in single_ops.cases() for op in single_ops.ops_of(case)}
    core = {name for name, op in _ops_of_aten() if torch.Tag.core in op.tags and not op._schema.is_mutable}
    assert len(core) > 150
    missing = {op for op in core - named if not any(word in op for word in _BACKWARD)}
    assert not missing


def _ops_of_aten():
    """Every op that is registered: `dir(torch.ops.aten)` lists only those that the process has named before."""
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, qualified = name.partition("::")
        packet, _, overload = qualified.partition(".")
        if namespace == "aten":
            yield f"aten.{qualified}", getattr(getattr(torch.ops.aten, packet), overload or "default")


@pytest.mark.slow
@pytest.mark.parametrize("name", single_ops.BACKENDS)
def test_what_is_not_refused_is_built_with_the_numbers_of_torch(name, tmp_path):
    backend = find_backend(name)
    if absent := backend.missing():
        pytest.skip(absent)
    taken = [case for case in single_ops.cases() if single_ops.refusal(case, backend) is None]
    wrong: dict[str, str] = {}
    folders = iter(tmp_path / str(i) for i in range(10_000))

    def hold(some):
        try:
            _hold(some, backend, next(folders))
        except Exception as error:
            if len(some) == 1:
                wrong[some[0].text] = text_of(error)[:400]
                return
            hold(some[: len(some) // 2])
            hold(some[len(some) // 2 :])

    for start in range(0, len(taken), _TOGETHER):
        hold(taken[start : start + _TOGETHER])
    assert not wrong, "\n".join(f"{text}\n    {reason}" for text, reason in wrong.items())


def _hold(some, backend, folder):
    program = single_ops.joined(some)
    folder.mkdir()
    _, artifact = lower(program, backend, find_target("host"), folder)
    given = [value.clone() for value in program.args]
    with torch.no_grad():
        wanted = program(*given)
    got = pytree.tree_leaves(artifact(*(value.numpy() for value in program.args)))
    results = iter(zip(pytree.tree_leaves(wanted), got, strict=True))
    for case in some:
        for _ in single_ops.parse_program(case.text).outputs():
            want, have = next(results)
            have = torch.as_tensor(np.asarray(have))
            assert (want.shape, want.dtype) == (have.shape, have.dtype), case.text
            if not single_ops.is_random(case):
                torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.slow
def test_the_page_in_the_docs_says_what_is_refused():
    page = (single_ops.Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    for name in single_ops.BACKENDS:
        if (backend := find_backend(name)).missing():
            continue
        column = single_ops.BACKENDS.index(name) + 2
        rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
        said = {row[1].strip(" `"): row[column].strip() for row in rows}
        found = single_ops.refusals(backend)
        assert said.keys() == found.keys(), "python tests/cases/single_ops.py > docs/operators.md"
        for op, reasons in found.items():
            expected = "yes" if not any(reasons) else "no" if all(reasons) else "some"
            assert said[op] == expected, f"{op} on {name}: python tests/cases/single_ops.py > docs/operators.md"
