"""Programs as values: equal and hashed by what they are, shown as their graph; and what notebooks draw of things."""

from html.parser import HTMLParser

import pytest
import torch

import fxopt

HURT = "<script>hurt()</script>"


@pytest.fixture
def program():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(), torch.nn.ReLU()).eval()
    return fxopt.capture(net, (torch.randn(1, 4),))


class Read(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], set(), []
        self.feed(text)
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_equal_programs_are_equal_and_one_key(program):
    twin = program.copy()
    assert twin == program
    assert {program: 1}[twin] == 1
    assert len({program, twin}) == 1
    assert program != program.text()


@pytest.mark.parametrize("edit", ["weight", "graph", "range"])
def test_an_edit_makes_another_program_of_it(edit, program):
    twin = program.copy()
    if edit == "weight":
        twin.set_tensor("0.weight", torch.zeros(4, 4))
    elif edit == "graph":
        (node,) = twin.find("aten.relu")
        twin.replace(node, node.args[0])
    else:
        twin.ranges = dict.fromkeys(twin.ranges, (2, 3))
    assert twin != program
    assert hash(twin) != hash(program)
    assert twin not in {program}


def test_the_repr_is_the_graph_and_a_long_one_is_cut_in_the_middle(program):
    assert repr(program) == f"Program {program.signature()}\n{program.text()}"
    deep = fxopt.capture(torch.nn.Sequential(*[torch.nn.ReLU() for _ in range(200)]), (torch.randn(1, 4),))
    lines = repr(deep).split("\n")
    assert len(lines) == 122
    assert lines[-1].strip() == deep.text().split("\n")[-1].strip()
    assert sum("more lines" in line for line in lines) == 1


def test_notebooks_draw_what_is_there_and_hostile_text_stays_text(program, tmp_path):
    outcome = fxopt.Pipeline.parse("clean_up").run(program)
    fxopt.save_program(program, tmp_path / "net.pt2")
    report = fxopt.build(fxopt.Recipe(str(tmp_path / "net.pt2"), backend="eager"), tmp_path / "out", measure=False)
    report.model = report.model.model_copy(update={"name": HURT})
    outcome.steps[0].text = HURT
    artifact = fxopt.load(tmp_path / "out")
    for thing, words in (
        (program, ["aten.relu"]),
        (outcome, ["clean_up", "changed nothing"]),
        (artifact, ["float32[batch, 4]", "eager"]),
        (report, ["file_bytes", "eager"]),
    ):
        page = Read(thing._repr_html_())
        assert "script" not in page.tags
        for word in words:
            assert word in " ".join(page.words)
    assert HURT in "".join(Read(report._repr_html_()).words)
    assert "float32[batch, 4]) -> (" in repr(artifact)
    assert repr(outcome).count("\n") == 3
