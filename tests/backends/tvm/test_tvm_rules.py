"""The table of lowering rules, and the names of TVM's classes: what is misspelled there would be silently left alone."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from fxopt.backends.tvm import Tvm, types
from fxopt.backends.tvm.frontend.provenance import DEQUANTIZE, QUANTIZE
from fxopt.backends.tvm.graph import rules

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)


def test_rules_are_of_ops_that_tvm_has():
    from tvm.ir import Op

    registered = rules.all_rules()
    assert "relax.nn.conv2d" in registered
    for op in registered.keys() - {rules.TUPLE_ITEM, QUANTIZE, DEQUANTIZE}:
        Op.get(op)  # raises for a name that it does not know


def test_no_op_has_two_rules_for_the_same_values():
    """The second would replace the first."""
    graph = Path(rules.__file__).parent
    seen = set()
    for path in graph.rglob("lower_*.py"):
        for function in (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)):
            for made in (d for d in function.decorator_list if isinstance(d, ast.Call)):
                keys = {(ast.unparse(made.func), ast.unparse(op)) for op in made.args}
                assert not keys & seen, f"{path.name}: {function.name}"
                seen |= keys
    assert len(seen) > 30


def test_types_are_where_tvm_has_them():
    checked = 0
    for statement in ast.walk(ast.parse(Path(types.__file__).read_text())):
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("tvm"):
            module = importlib.import_module(statement.module)
            for alias in statement.names:
                assert hasattr(module, alias.name), f"{statement.module}.{alias.name}"
                checked += 1
    assert checked > 20
