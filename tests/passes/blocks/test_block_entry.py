"""Entries of the library as values: text both ways, options held against their types, a user's file."""

import contextlib
import json
import sys

import pytest

from fxopt import block_entry, registry
from fxopt.cli.main import main
from fxopt.driver.load_file import load_file
from fxopt.errors import OptionError, UnknownNameError
from fxopt.pass_manager.block_entry import BlockEntry, parse_form

THEIRS = '''
from typing import Annotated
import torch
from fxopt import Program, Tune, block_entry

@block_entry("unit")
def halved(block: Program, samples: object, *, by: Annotated[float, Tune(choices=(2.0, 4.0))] = 2.0) -> str | None:
    """What the block gives, divided."""
    (result,) = block.outputs()
    less = block.call(torch.ops.aten.div.Scalar, result, by, like=result)
    block.graph.output_node().replace_input_with(result, less)
'''


@pytest.mark.parametrize("name", registry.names("block"))
def test_the_text_of_every_form_is_read_back(name):
    entry = registry.get("block", name)
    assert isinstance(entry, BlockEntry)
    forms = list(entry.forms())
    assert forms
    assert [parse_form(str(form), "test") for form in forms] == forms
    assert len(set(forms)) == len(forms)


def test_options_are_held_against_their_types():
    with pytest.raises(OptionError, match="terms"):
        parse_form("depthwise_pointwise(terms=0)", "test")
    with pytest.raises(UnknownNameError, match="term"):
        parse_form("depthwise_pointwise(term=1)", "test")
    with pytest.raises(UnknownNameError, match="depthwise_pointwise"):
        parse_form("depthwise_pointwis", "test")


def test_a_file_adds_an_entry_that_is_listed_and_explained(tmp_path, capsys, monkeypatch):
    path = tmp_path / "theirs.py"
    path.write_text(THEIRS)
    with registry.restored():
        assert load_file(path) == ["block halved"]
        assert [str(form) for form in registry.get("block", "halved").forms()] == ["halved(by=2.0)", "halved(by=4.0)"]
    for command in ("blocks", "explain halved"):
        monkeypatch.setattr(sys, "argv", ["fxopt", *command.split(), "--load", str(path), "--json"])
        with registry.restored(), contextlib.suppress(SystemExit):
            main()
    listed, manual = map(json.loads, capsys.readouterr().out.splitlines())
    assert {row["name"]: row["summary"] for row in listed}["halved"] == "What the block gives, divided."
    assert [(o["name"], o["default"]) for o in manual["options"]] == [("by", "2.0")]


def test_a_function_with_an_option_without_default_is_no_entry():
    with pytest.raises(TypeError, match="needs a default"):

        @block_entry("unit")
        def wrong(block, samples, *, amount):
            pass
