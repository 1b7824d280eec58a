"""What a CI sees of a build: lines of progress, a summary, JUnit's XML; and the files in docs/ci that run it there."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import fxopt
from fxopt.cli.main import main

CI = Path(__file__).parents[2] / "docs" / "ci"
HURT = "<script>hurt()</script>|`]]>&\x1b"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    place = tmp_path_factory.mktemp("ci")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(16, 4)
    ).eval()
    fxopt.save_program(fxopt.capture(net, (torch.randn(1, 8),)), place / "net.pt2")
    text = 'model = "net.pt2"\nbackend = "eager"\npasses = ["clean_up", "prune_channels(ratio=0.25)"]\n[budget]\n'
    (place / "kept.toml").write_text(text + "macs = 1000\n")
    (place / "missed.toml").write_text(text + "macs = 1000\nfile_bytes = 10\n")
    (place / "wrong.toml").write_text(text.replace("ratio=0.25", "ratio=0.25, keep=('nothing',)") + "macs = 1000\n")
    return place


def _build(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["fxopt", "build", *map(str, args), "--no-measure"])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0, *capsys.readouterr()


def test_progress_is_lines_on_standard_error_where_there_is_no_terminal(recipe, tmp_path, monkeypatch, capsys):
    code, out, err = _build(monkeypatch, capsys, recipe / "kept.toml", "-o", tmp_path / "out", "-v")
    assert code == 0, err
    lines = [re.fullmatch(r" *\d+\.\d s  (.*)", line) for line in err.splitlines()]
    assert all(lines), err
    told = [line[1] for line in lines]
    assert [line for line in told if line in ("capture", "passes", "build", "measure")] == [
        "capture",
        "passes",
        "build",
        "measure",
    ]
    assert sum(line.startswith("step ") for line in told) == 5
    assert any(line.startswith("left alone: ") for line in told)
    assert "capture" not in out


def test_quiet_prints_nothing_of_what_went_well_and_all_of_what_did_not(recipe, tmp_path, monkeypatch, capsys):
    assert _build(monkeypatch, capsys, recipe / "kept.toml", "-o", tmp_path / "out", "-q") == (0, "", "")
    code, out, err = _build(monkeypatch, capsys, recipe / "missed.toml", "-o", tmp_path / "out", "-q")
    assert (code, out) == (1, "")
    assert err.startswith("BudgetError: ")


def test_a_missed_budget_is_in_the_summary_and_a_failure_in_junit(recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "s.md").write_text("before\n")
    args = ["--summary", tmp_path / "s.md", "--junit", tmp_path / "deep" / "j.xml"]
    assert _build(monkeypatch, capsys, recipe / "missed.toml", "-o", tmp_path / "out", *args)[0] == 1
    markdown = (tmp_path / "s.md").read_text()
    assert markdown.startswith("before\n## ")
    assert "❌ 1 of 2 limits missed" in markdown
    (suite,) = ElementTree.parse(tmp_path / "deep" / "j.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")
    assert int(suite.get("tests")) == len(suite.findall("testcase")) == 5 + 1 + 2
    (failed,) = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == "file_bytes"


def test_a_build_that_fails_is_an_error_in_both(recipe, tmp_path, monkeypatch, capsys):
    args = ["--summary", tmp_path / "s.md", "--junit", tmp_path / "j.xml"]
    assert _build(monkeypatch, capsys, recipe / "wrong.toml", "-o", tmp_path / "out", *args)[0] == 2
    assert "The build failed" in (tmp_path / "s.md").read_text()
    (suite,) = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert suite.get("errors") == "1"
    assert suite.find("testcase/error").get("type") == "OptionError"


def test_hostile_text_stays_text_in_both(recipe, tmp_path):
    from markdown_it import MarkdownIt

    from fxopt.driver.junit import junit
    from fxopt.driver.page.build_page import build_page
    from fxopt.driver.page.markdown import markdown

    report = fxopt.build(recipe / "kept.toml", tmp_path / "out", measure=False)
    step = report.steps[0].model_copy(update={"pass_": HURT})
    model = report.model.model_copy(update={"name": HURT})
    hostile = report.model_copy(update={"model": model, "steps": [step], "recipe": {"model": f"{HURT}\n\n{HURT}"}})
    root = ElementTree.fromstring(junit({HURT: hostile}))
    assert "<script>hurt()</script>|`]]>&" in root[0].get("name")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown(build_page([hostile])))
    assert "<script" not in html
    assert "&lt;script&gt;hurt()&lt;/script&gt;|`]]&gt;&amp;" in html
    assert html.count("</details>") == html.count("<details>")


def test_figures_go_to_a_tracker_from_the_cache_too(recipe, tmp_path):
    seen = []
    for name in ("first", "again"):
        with fxopt.tracked(lambda figures, number, name=name: seen.append((name, number, figures))):
            report = fxopt.build(recipe / "kept.toml", tmp_path / name, measure=False)
    first, again = ([(n, f) for who, n, f in seen if who == name] for name in ("first", "again"))
    assert [number for number, _ in first] == [number for number, _ in again] == [1, 2, 3, 4, 5, 6]
    assert [f["macs"] for _, f in first[:-1]][-1] == report.after.macs
    assert first[-1][1] == {"file_bytes": report.after.file_bytes}
    assert [sorted(f) for _, f in first] == [sorted(f) for _, f in again]
    assert any("error" in figures for _, figures in first)

    class Full(Exception):
        pass

    def refuse(figures, number):
        raise Full

    with pytest.raises(Full), fxopt.tracked(refuse):
        fxopt.build(recipe / "kept.toml", tmp_path / "third", measure=False)
    assert not (tmp_path / "third").exists()


def test_a_long_step_says_now_and_then_how_far_it_is(caplog, monkeypatch):
    from fxopt.support import progress

    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with caplog.at_level("INFO", "fxopt"), progress.progress_bar("train", 5) as advance:
        for i in range(5):
            advance(1, f"epoch {i + 1}")
    assert [record.getMessage() for record in caplog.records] == ["epoch 3: 3 of 5"]


# ---- schemas -------------------------------------------------------------------------------------------------------


def test_the_published_schema_of_reports_is_that_of_this_version():
    from fxopt.driver.schemas import report_schema

    published = CI.parent / "schemas" / "report.json"
    text = json.dumps(report_schema(), indent=2) + "\n"
    assert published.read_text() == text, f"fxopt schema report > {published}"


def test_recipes_and_reports_hold_their_schemas_and_wrong_ones_do_not(recipe, tmp_path):
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    import tomllib

    from fxopt.driver.schemas import recipe_schema, report_schema

    of_recipe, of_report = validator(recipe_schema()), validator(report_schema())
    shipped = sorted((CI.parents[1] / "models").glob("*.toml"))
    for path in [*shipped, recipe / "missed.toml"]:
        of_recipe.validate(tomllib.loads(path.read_text()))
    for wrong in ({}, {"model": 3}, {"model": "m", "modle": "n"}, {"model": "m", "budget": {"macs": 0}}):
        assert not of_recipe.is_valid(wrong)
        with pytest.raises(fxopt.FxoptError):
            fxopt.driver.recipe.make_recipe(wrong)
    fxopt.build(recipe / "kept.toml", tmp_path / "out", measure=False)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    of_report.validate(report)
    for wrong in (
        report | {"schema_version": 99},
        report | {"stesp": []},
        {k: v for k, v in report.items() if k != "steps"},
    ):
        assert not of_report.is_valid(wrong)


# ---- a shell, an action, an image ----------------------------------------------------------------------------------


def test_a_shell_completes_names(monkeypatch, capsys):
    for words, found in (
        ("fxopt explain fold_b", "fold_batch_norm"),
        ("fxopt build digits -t raspberry_pi_5", "raspberry_pi_5"),
    ):
        monkeypatch.setenv("_FXOPT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        monkeypatch.setattr(sys, "argv", ["fxopt"])
        with pytest.raises(SystemExit):
            main()
        assert capsys.readouterr().out.split() == [found]


def _commands(text):
    """The arguments of every fxopt in a script."""
    return [
        line.split("fxopt ", 1)[1].split(" ||")[0].split() for line in text.splitlines() if re.match(r"\s*fxopt ", line)
    ]


def _parses(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_action_is_whole_and_its_commands_exist():
    from typer.main import get_command

    from fxopt.cli.app import app

    yaml = pytest.importorskip("yaml")
    action = yaml.safe_load((CI / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    scripts = [step for step in action["runs"]["steps"] if "run" in step]
    assert all(step["shell"] == "bash" for step in scripts)
    assert all("@v" in step["uses"] for step in action["runs"]["steps"] if "uses" in step)
    ids = {step.get("id") for step in action["runs"]["steps"]}
    for step in scripts:
        assert "${{" not in step["run"], "an input in a script is code of whoever gives it"
        _parses(step["run"])
        assert set(re.findall(r"\$\{?([A-Z]+)\b", step["run"])) <= {*step.get("env", {}), "GITHUB"}
    used = set(re.findall(r"inputs\.(\w+)", (CI / "action.yml").read_text()))
    assert used == set(action["inputs"])
    assert {re.search(r"steps\.(\w+)\.", output["value"])[1] for output in action["outputs"].values()} <= ids
    commands = [command for step in scripts for command in _commands(step["run"])]
    assert commands
    known = get_command(app).commands
    for name, *arguments in commands:
        options = {option for parameter in known[name].params for option in getattr(parameter, "opts", [])}
        assert {argument for argument in arguments if argument.startswith("-")} <= options


def test_the_image_is_made_of_files_and_extras_that_are_there():
    text = (CI / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.split(maxsplit=1) for line in lines]
    assert words[0][0] == "FROM"
    assert not words[0][1].endswith((":latest", "python"))
    assert {name for name, _ in words} <= {"FROM", "ARG", "ENV", "COPY", "RUN", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert [name for name, _ in words].index("USER") < [name for name, _ in words].index("ENTRYPOINT"), "not as root"
    for name, rest in words:
        if name == "RUN":
            _parses(rest)
            assert "-c /src/constraints.txt" in rest
        if name in ("ENTRYPOINT", "CMD"):
            assert json.loads(rest)
    import tomllib

    extras = tomllib.loads((CI.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = (rest.partition("=")[2].split(",") for name, rest in words if name == "ARG")
    assert set(asked) <= set(extras)
