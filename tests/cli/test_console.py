"""What is printed fits the console: no line beyond it that could be cut, no word cut, nothing left out."""

import io
import json
import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from rich.cells import cell_len
from rich.console import Console

import fxopt
from fxopt.cli.layout import Column, Listing, say
from fxopt.cli.lines import flowed
from fxopt.cli.main import main

WORD = st.text(st.sampled_from("abc(=',)0123.µ四"), min_size=1, max_size=14)
TEXT = st.lists(WORD, max_size=9).map(" ".join)


def _printed(thing, width):
    console = Console(file=io.StringIO(), width=width)
    say(console, thing, indent=2) if isinstance(thing, str) else console.print(thing)
    return console.file.getvalue()


def _fits(text, width):
    """Lines are within the width, but for those of one word that is longer."""
    return all(cell_len(line) <= width or len(line.split()) == 1 for line in text.splitlines())


@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=4), width=st.integers(24, 160))
def test_a_table_has_every_word_whole_at_every_width(rows, width):
    columns = [Column("name"), Column("ms", right=True), Column("share", right=True), Column("source", apart=True)]
    table = Listing("", columns)
    for row in rows:
        table.add(*row)
    printed = _printed(table, width)
    assert _fits(printed, width)
    words = printed.split()
    for row in rows:
        for word in " ".join(row).split():
            assert word in words or f"{word}," in words


@given(text=TEXT, width=st.integers(8, 60))
def test_a_text_is_cut_between_words_and_goes_on_further_in(text, width):
    printed = _printed(text, width)
    assert printed.split() == text.split()
    assert _fits(printed, width)
    assert all(line.startswith("    ") for line in printed.splitlines()[1:])


def test_figures_stand_below_their_columns_and_the_last_row_is_not_lost():
    table = Listing("", [Column("layer"), Column("ms", right=True), Column("source", apart=True)])
    table.add("conv", "1.25", "net.py:7")
    table.add("fc", "10.50", "net.py:9")
    wide = _printed(table, 80).splitlines()
    assert wide == ["layer     ms  source", "conv    1.25  net.py:7", "fc     10.50  net.py:9"]
    narrow = _printed(table, 18).splitlines()
    assert narrow == ["layer     ms", "conv    1.25", "    net.py:7", "fc     10.50", "    net.py:9"]


def test_a_manual_flows_and_leaves_graph_text_alone():
    doc = "A first line\nthat goes on.\n\nbefore:\n    %x : f32[2]\n    return %x\n\n* one item\n  of two lines\n* ``two``"
    lines = list(flowed(doc, 60))
    assert lines[0] == "A first line that goes on."
    assert "    %x : f32[2]" in lines
    assert "* one item of two lines" in lines
    assert "* two" in lines


def test_control_characters_of_a_model_do_not_reach_the_terminal():
    table = Listing("", [Column("layer")])
    table.add("conv\x1b[2J")
    assert "\x1b" not in _printed(table, 80) + _printed("a\x1b[2Jb", 80)


LONG = "zero_channels(ratio=0.25, by='l1', scope='isomorphic', keep=('2.weight',), min_channels=2, samples=32)"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    place = tmp_path_factory.mktemp("console")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    fxopt.save_program(fxopt.capture(net, (torch.randn(1, 8),)), place / "net.pt2")
    fxopt.build(fxopt.Recipe(str(place / "net.pt2"), (LONG, "shrink"), "eager"), place / "out", measure=False)
    return place / "out"


@pytest.mark.parametrize(("command", "width"), [("report", 80), ("report", 200), ("diff", 80), ("profile", 80)])
def test_commands_fit_and_names_stay_whole(command, width, built, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    folders = [str(built)] * (2 if command == "diff" else 1)
    monkeypatch.setattr(sys, "argv", ["fxopt", command, *folders])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert _fits(printed, width), printed
    if command == "report":
        report = json.loads((built / "report.json").read_text())
        assert LONG in " ".join(printed.split())
        assert printed.startswith(report["model"]["name"])
        assert "│" not in printed


def test_help_of_every_command_fits_and_has_the_first_lines_whole(monkeypatch, capsys):
    from typer.main import get_command

    from fxopt.cli.app import app

    monkeypatch.setenv("COLUMNS", "80")

    def help_of(*args):
        monkeypatch.setattr(sys, "argv", ["fxopt", *args, "-h"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        printed = capsys.readouterr().out
        assert _fits(printed, 80), printed
        return " ".join(printed.split())

    whole = help_of()
    commands = get_command(app).commands
    assert len(commands) > 20
    for name, command in commands.items():
        first = command.help.split("\n\n")[0]
        assert f"{name} {first}" in whole
        assert first in help_of(name)
