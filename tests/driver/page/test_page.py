"""Pages of builds: all of the report is there, as text and without scripts, and nothing in it can be anything but text."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.driver.budget import Budget
from fxopt.driver.build import build
from fxopt.driver.page.build_page import build_page
from fxopt.driver.page.elements import Cell, Page, Section, Table
from fxopt.driver.page.write import page_text, write_page
from fxopt.driver.recipe import Recipe, make_recipe, read_recipe
from fxopt.driver.report import BuildReport
from fxopt.errors import UnknownNameError, UsageError

HURT = "</script><script>hurt()</script><img src=x onerror=hurt()>\"'&{{ 7 * 7 }}"


class Read(HTMLParser):
    """Text outside scripts and styles, elements with attributes, and what is in script elements."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.words, self._in = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._in = tag if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in is None:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    fxopt.save_program(fxopt.capture(net, (torch.randn(1, 3, 8, 8),)), place / "net.pt2")
    budget = Budget(file_bytes=10**6, macs=10)
    recipe = Recipe(str(place / "net.pt2"), ("fold_batch_norm", "clean_up"), "eager", budget=budget, html=True)
    return Path(str(build(recipe, place / "out", measure=False).folder))


@pytest.fixture
def report(folder):
    return BuildReport.read(folder)


def test_a_report_reads_back_as_it_was_written(folder, report):
    assert report.to_dict() | {"folder": None} == json.loads((folder / "report.json").read_text()) | {"folder": None}


def test_a_recipe_may_ask_for_the_page_and_the_artifact_still_loads(folder, report):
    page = Read((folder / "report.html").read_text())
    assert report.model.name in page.text
    assert fxopt.load(folder)(torch.randn(1, 3, 8, 8).numpy()).shape == (1, 5)


def test_what_is_in_the_report_is_on_the_page_without_scripts(report):
    page = Read(page_text(build_page([report])))
    for line in report.budget:
        assert line.text in page.text
    for step in report.steps:
        assert step.pass_ in page.text
    for layer in report.layers:
        if layer.macs:
            assert layer.name in page.text
    assert "1 of 2 limits missed" in page.text
    assert "proved in float64" in page.text


def test_the_page_asks_nothing_of_the_network(report):
    text = page_text(build_page([report]))
    asked = [value for _, facts in Read(text).elements for name, value in facts.items() if name in ("src", "href")]
    assert [value for value in asked if not value.startswith(("#", "data:"))] == []
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_figures_fold_before_a_range_and_are_escaped():
    row = (Cell("latency"), Cell("1.5 ms (1.3–1.7), <b>", 1.5))
    page = Page("t", "v", True, (Section("s", (Table(("name", "n"), (row,), frozenset({1})),)),))
    assert "1.5 ms <wbr>(1.3–1.7), <wbr>&lt;b&gt;</td>" in page_text(page)


def _with_everywhere(value, text, path=()):
    """The report with a text behind every string that may be anybody's."""
    if isinstance(value, dict):
        return {k: _with_everywhere(v, text, (*path, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_everywhere(v, text, path) for v in value]
    return value + text if isinstance(value, str) and path[-1] not in ("kind", "form", "error", "sqnr_db") else value


def test_hostile_text_anywhere_in_a_report_stays_text(report):
    step = report.steps[0].model_dump(by_alias=True)
    step["skips"] = [{"node": "%x", "source": "a.py:1", "reason": "why"}]
    step["choices"] = [{"what": "ratio", "value": "a", "why": "so"}]
    values = report.to_dict() | {"steps": [step], "not_timed": "no", "concerns": []}
    values["concerns"] = [{"kind": "metric_lost", "ratio": 0.5, "text": "fell", "way_out": "do"}]
    candidate = {"candidate": "c", "backend": "b", "form": "recipe", "refused": "r"}
    candidate["latency"] = {"median_ms": 1.0, "low_ms": 1.0, "high_ms": 1.0, "blocks": 1}
    candidate["agreement"] = {"relative_error": 0.0, "sqnr_db": 40.0}
    values["choice"] = {"chosen": "c", "why": "w", "tried": [candidate, {**candidate, "candidate": "d"}]}
    hostile = BuildReport.model_validate(_with_everywhere(values, HURT))
    page = Read(page_text(build_page([hostile])))
    assert [tag for tag, _ in page.elements if tag == "img"] == []
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    data, script = page.scripts
    assert "hurt" not in script
    assert HURT in json.loads(data)["after"][0]["module"]
    assert HURT in page.text
    assert "49" not in page.text.replace("49.6", "")[page.text.index(HURT) : page.text.index(HURT) + len(HURT)]


def test_builds_stand_side_by_side_and_those_of_different_models_do_not(report):
    other = report.model_copy(update={"folder": "elsewhere/better"})
    page = Read(page_text(build_page([report, other])))
    assert "better: 1 of 2 limits missed" in page.text
    stranger = other.model_copy(update={"model": report.model.model_copy(update={"name": "stranger"})})
    with pytest.raises(UsageError, match="different models") as caught:
        build_page([report, stranger])
    assert "stranger" in caught.value.got


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (None, "no report"),
        ("{", "no report"),
        ('{"schema_version": 99}', "another version"),
        ('{"schema_version": 1}', "model"),
    ],
)
def test_a_folder_without_a_report_that_is_known_is_refused(tmp_path, written, told):
    if written is not None:
        (tmp_path / "report.json").write_text(written)
    with pytest.raises(UsageError, match=told) as caught:
        BuildReport.read(tmp_path)
    assert caught.value.way_out


def test_a_recipe_on_the_page_builds_the_same(report, tmp_path):
    from fxopt.driver.page.words import recipe_text

    recipe = Recipe(
        'm:"odd\\ \x7fname', ("a(by='l1')", "b"), calibration="x\u2028.npy", budget=Budget(metric_drop=0.01)
    )
    (tmp_path / "r.toml").write_text(recipe_text(recipe.to_dict()))
    assert read_recipe(tmp_path / "r.toml").to_dict() | {"calibration": None} == recipe.to_dict() | {
        "calibration": None
    }


def test_the_recipe_key_is_checked():
    assert make_recipe({"model": "m", "report": {"html": True}}).html
    with pytest.raises(UnknownNameError):
        make_recipe({"model": "m", "report": {"hmtl": True}})


def test_a_page_that_cannot_be_written_leaves_nothing(report, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        write_page(build_page([report]), tmp_path / "there")
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
