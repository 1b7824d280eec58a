"""Pages in a headless browser: no error on the console, tables that sort and are searched, a graph that opens and closes."""

import pytest
from cases.browser import BROWSER, evaluated, violations

from fxopt.driver.layers import LayerFigures
from fxopt.driver.page.elements import Cell, Code, Fold, Gauge, Graph, Page, Section, Table, Words
from fxopt.driver.page.layer_table import graph_rows
from fxopt.driver.page.write import page_text

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")]


@pytest.fixture
def ask(tmp_path):
    """Open a page, evaluate an expression in it, and give its value; a message on the console is a failure."""

    def ask(page, expression):
        value, messages = evaluated(page_text(page), expression, tmp_path)
        assert not messages
        return value

    return ask


def _table(rows):
    cells = tuple((Cell(name), Cell("" if value is None else f"{value:g}", value)) for name, value in rows)
    return Page("t", "v", True, (Section("s", (Table(("name", "n"), cells, frozenset({1}), search=True),)),))


def test_a_click_on_a_heading_sorts_by_number_with_what_is_empty_last(ask):
    page = _table([("a", 9.0), ("b", None), ("c", 10.0), ("d", -1.0)])
    click = "document.querySelectorAll('th button')[1].click()"
    read = "[...document.querySelectorAll('tbody tr')].map((row) => row.cells[0].textContent).join('')"
    assert ask(page, f"({click}, {read})") == "cadb"
    assert ask(page, f"({click}, {click}, {read})") == "dacb"


def test_the_search_leaves_the_rows_that_have_all_words(ask):
    page = _table([("layer1.conv one", 1.0), ("layer1.norm", 2.0), ("layer2.conv", 3.0)])
    typed = (
        "((f) => { f.value = 'conv LAYER1'; f.dispatchEvent(new Event('input')); })(document.querySelector('input'))"
    )
    read = "[...document.querySelectorAll('tbody tr')].filter((row) => !row.hidden).length"
    assert ask(page, f"({typed}, {read})") == 1


def _chain(count, per_module=100):
    return [
        LayerFigures(
            name=f"n{i}", op="aten.relu", module=f"stage{i // (per_module * 10)}.block{i // per_module}",
            inputs=(f"n{i - 1}",) if i else (), macs=i,
        )
        for i in range(count)
    ]  # fmt: skip


def test_a_module_opens_by_a_click_and_the_other_side_with_it(ask):
    layers = _chain(400, 20)
    page = Page("t", "v", True, (Section("s", (Graph({"before": graph_rows(layers), "after": graph_rows(layers)}),)),))
    count = "[...document.querySelectorAll('.side svg')].map((side) => side.querySelectorAll('g').length)"
    before = ask(page, count)
    click = "document.querySelector('g.module').dispatchEvent(new Event('click'))"
    after = ask(page, f"({click}, {count})")
    assert before[0] == before[1] < after[0] == after[1]


def test_ten_thousand_ops_are_drawn_collapsed_and_closed_again(ask):
    page = Page("t", "v", True, (Section("s", (Graph({"before": graph_rows(_chain(10_000))}),)),))
    drawn = "document.querySelectorAll('.side g').length"
    assert 1 < ask(page, drawn) <= 400
    close = "[...document.querySelectorAll('.graph button')].find((b) => b.textContent === 'close all').click()"
    assert ask(page, f"({close}, {drawn})") == 10


def test_nothing_is_wider_than_a_phone(ask):
    page = _table([("a" * 300, 1.0), ("b c " * 80, 2.0)])
    assert ask(page, "document.documentElement.scrollWidth <= innerWidth")


def test_axe_finds_nothing_against_a_page_and_what_is_planted(tmp_path):
    layers = graph_rows(_chain(60, 20))
    page = Page("net", "all limits kept", True, (
        *_table([("a", 9.0), ("b", None)]).sections,
        Section("more", (Gauge("macs", 0.5, True, "macs: half"), Words("so", "dim"), Code("The recipe", "x = 1"))),
        Section("left", (Fold("left 2: why", ("%a", "%b")), Graph({"before": layers, "after": layers}))),
    ))  # fmt: skip
    assert violations(page_text(page), tmp_path) == {}
    planted = page_text(page).replace("<main", "<img src='data:,'><main", 1)
    assert violations(planted, tmp_path)["image-alt"] == "critical"
