"""The page of a search: the front as points with their recipes, and nothing of files that are not the search's."""

from html.parser import HTMLParser

import pytest

from fxopt.automl.report import Answer, Rejected, SearchReport, Technique
from fxopt.automl.search_page import search_page
from fxopt.driver.page.elements import Plot
from fxopt.driver.page.write import page_text
from fxopt.errors import UsageError


def _answer(name, latency, drop, recipe):
    figures = {"metric_drop": drop, "latency_ms": latency}
    return Answer(passes=(name,), backend="onnx", figures=figures, recipe=recipe, trial=1)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / "01.toml").write_text('model = "<b>net</b>"\n')
    (tmp_path.parent / "secret.toml").write_text("secret = 1\n")
    return tmp_path


@pytest.fixture
def report():
    return SearchReport(
        model="net", target={"name": "host"}, backends=["onnx"], limits=["metric_drop <= 0.01"],
        objectives=["metric_drop", "latency_ms"], seed=0, original={"metric_drop": 0.0, "latency_ms": 4.0}, trials=9, seconds=3.0,
        front=[_answer("quantize", 1.0, 0.01, "front/01.toml"), _answer("clean_up", 2.0, 0.0, "../secret.toml")],
        hypervolume=1.0, techniques=[Technique(name="low_rank", tried=3, finished=1, on_front=False, why_not="slower")],
        rejected=[Rejected(why="a limit", count=2, example="drop 0.3")],
    )  # fmt: skip


def test_every_answer_is_a_point_with_its_recipe_and_the_original_beside(report, folder):
    page = search_page(report, folder)
    (plot,) = [e for section in page.sections for e in section.elements if isinstance(e, Plot)]
    assert [(dot.x, dot.y) for dot in plot.dots] == [(1.0, 0.01), (2.0, 0.0), (4.0, 0.0)]
    assert plot.dots[0].recipe == 'model = "<b>net</b>"\n'


def test_a_recipe_outside_the_folder_is_not_read(report, folder):
    assert "secret = 1" not in page_text(search_page(report, folder))


def test_all_of_the_search_is_text_on_the_page(report, folder):
    words = []
    reader = HTMLParser()
    reader.handle_data = words.append
    reader.feed(page_text(search_page(report, folder)))
    text = " ".join(words)
    for said in ("metric_drop <= 0.01", "low_rank", "slower", "2 trials: a limit", "drop 0.3", "<b>net</b>"):
        assert said in text


def test_a_search_that_found_nothing_shows_the_nearest(report, folder):
    nothing = report.model_copy(update={"front": [], "nearest": report.front[0]})
    page = search_page(nothing, folder)
    assert not page.good
    assert "no recipe keeps all limits" in page.verdict
    assert "quantize" in page_text(page)


def test_a_search_of_another_version_is_refused(report, folder):
    (folder / "search.json").write_text(report.model_copy(update={"schema_version": 9}).model_dump_json())
    with pytest.raises(UsageError, match="another version"):
        SearchReport.read(folder)


def test_large_figures_are_counts_and_sizes(report, folder):
    figures = {"metric_drop": 0.01, "latency_ms": 1.0, "macs": 8_682_000.0, "file_bytes": 217_900.0}
    large = report.model_copy(
        update={
            "front": [report.front[0].model_copy(update={"figures": figures})],
            "objectives": ["latency_ms", "file_bytes"],
        }
    )
    text = page_text(search_page(large, folder))
    assert all(shown in text for shown in ("8.68 M", "218 kB", "file, bytes 218 k"))
